"""The page of `segment --html` in a real browser: zoom, pan, jump and hover, by mouse and by keyboard."""

import asyncio
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from dnachunker.cli import main
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.tracks.viewer import ViewedRegion, write_viewer

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Page:
    """A tab whose mouse and keyboard are driven through the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.calls = 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.calls += 1
        await self.socket.send_json({"id": self.calls, "method": method, "params": parameters})
        while True:
            answer = await self.socket.receive_json(timeout=30)
            if answer.get("id") == self.calls:
                assert "error" not in answer, answer
                return dict(answer["result"])

    async def value(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    async def key(self, key: str, **more: Any) -> None:
        typed = {"text": key} if len(key) == 1 else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **typed, **more)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def place(self) -> tuple[int, int]:
        """First and last base in view, read from the coordinate field of the page."""
        text = await self.value("document.getElementById('place').value")
        first, last = text.rpartition(":")[2].replace(",", "").split("-")
        return int(first), int(last)


@pytest.fixture(scope="module")
def viewer(export: Path, fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    (folder / "genes.gtf").write_text('a\tx\texon\t901\t1000\t.\t-\t.\tgene_name "</script>GENE";\n')
    where = ["--model", str(export), "--fasta", str(fasta), "--output", str(folder / "out"), "--html"]
    assert (
        main(["segment", *where, "--region", "a:201-2200", "--region", "b", "--annotation", str(folder / "genes.gtf")])
        == 0
    )
    return folder / "out" / "viewer.html"


def drive(viewer: Path, profile: Path, steps: Any) -> None:
    """Open the page in a headless browser and run `steps(page)`."""
    if BROWSER is None:
        pytest.skip("no Chromium: apt-get install chromium")
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,700",
        f"--user-data-dir={profile}", "--remote-debugging-port=0", viewer.as_uri(),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_drive(profile / "DevToolsActivePort", steps))
    finally:
        process.kill()  # its profile is deleted anyway
        process.wait()


async def _drive(port_file: Path, steps: Any) -> None:
    deadline = time.monotonic() + 60
    while not (port_file.exists() and port_file.read_text().count("\n")):
        assert time.monotonic() < deadline, "the browser did not start"
        await asyncio.sleep(0.1)
    port = port_file.read_text().splitlines()[0]
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page" and tab["url"].startswith("file:")]
            if tabs:
                break
            assert time.monotonic() < deadline, "the page did not open"
            await asyncio.sleep(0.1)
        async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            while not await page.value("document.readyState === 'complete' && !!document.getElementById('place')"):
                await asyncio.sleep(0.1)
            await steps(page)


def test_the_page_is_self_contained(viewer: Path) -> None:
    text = viewer.read_text()
    assert "src=" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("</script>") == 2  # an annotation's name cannot end the data
    assert "\\u003c/script>GENE" in text


def test_a_model_of_one_stage_is_drawn(tmp_path: Path) -> None:
    starts = np.arange(60) % 5 == 0
    region = ViewedRegion(Region("a", 0, 60), "ACGTA" * 12, (starts,), (starts.astype(np.float32),), ())
    write_viewer(tmp_path / "viewer.html", [region], [], title="one")

    async def steps(page: Page) -> None:
        assert await page.value("rows.map((row) => row.name).join()") == "overview,ruler,sequence,p0,chunks0,repeats"
        assert await page.place() == (1, 60)

    drive(tmp_path / "viewer.html", tmp_path / "profile", steps)


def test_zoom_pan_jump_and_hover(viewer: Path, tmp_path: Path) -> None:
    beds = [
        [
            tuple(map(int, line.split("\t")[1:3]))
            for line in (viewer.parent / f"stage{stage}.bed").open()
            if line[0] == "a"
        ]
        for stage in range(2)
    ]

    async def steps(page: Page) -> None:
        assert await page.place() == (201, 2200)
        box = await page.value("(({x, y, width, height}) => ({x, y, width, height}))(strip.getBoundingClientRect())")
        middle, row = box["x"] + 104 + (box["width"] - 104) / 2, box["y"] + 75
        # the wheel zooms around the mouse
        await page.mouse("mouseWheel", middle, row, deltaX=0, deltaY=-400)
        first, last = await page.place()
        assert 700 < last - first < 780
        assert abs((first + last) / 2 - 1200) < 3
        # dragging moves the sequence with the mouse
        await page.mouse("mousePressed", middle, row, button="left", buttons=1, clickCount=1)
        await page.mouse("mouseMoved", middle + 100, row, button="left", buttons=1)
        await page.mouse("mouseReleased", middle + 100, row, button="left", clickCount=1)
        moved = await page.place()
        assert first - 110 < moved[0] < first - 40
        # coordinates jump, in this region and to another
        await page.value("place.focus(); place.value = 'a:921-1,000'; controls.requestSubmit()")
        assert await page.place() == (921, 1000)
        await page.value("document.getElementById('place').focus(); place.value = 'nowhere'; controls.requestSubmit()")
        assert await page.value("place.className") == "wrong"
        assert await page.value("view.from") == 720
        await page.value("place.value = 'a:921-1000'; controls.requestSubmit()")
        # hovering tells the base, both chunks and the annotation
        wide = (box["width"] - 104) / 80
        await page.mouse("mouseMoved", box["x"] + 104 + 9.5 * wide, row)
        tip = await page.value("getComputedStyle(tip).display === 'block' ? tip.textContent : ''")
        lines = tip.split("\n")
        assert lines[0].startswith("a:930 ")
        for line, name, bed in zip(lines[1:3], ("chunk", "outer chunk"), beds, strict=True):
            start, end = next((s, e) for s, e in bed if s <= 929 < e)
            assert line.startswith(f"{name}: {start + 1:,}-{end:,}, {end - start:,} bases")
        assert "genes.gtf: </script>GENE (exon) -" in lines
        # the keyboard can do the same
        await page.value("strip.focus()")
        await page.key("+")
        assert (await page.place())[1] - (await page.place())[0] <= 41
        before = await page.value("view.from")
        await page.key("ArrowRight")
        assert await page.value("view.from") == before + 8
        await page.key("n")
        start = round(await page.value("shown.start + view.from + view.span / 2"))
        assert start in {s for s, _ in beds[1]}
        await page.key("0")
        assert await page.place() == (201, 2200)
        await page.value("place.value = 'b:1-50'; controls.requestSubmit()")
        assert await page.place() == (1, 50)
        assert await page.value("select.selectedOptions[0].textContent") == "b:1-300"
        # every base is drawn in one chunk of each stage, as in the tracks
        await page.value("choose(0)")
        for stage, bed in enumerate(beds):
            walk = f"for (let i = 0; i < 2000; i = out.at(-1)[1]) out.push(chunk({stage}, i).slice(0, 2))"
            drawn = await page.value(f"(() => {{ const out = []; {walk}; return JSON.stringify(out); }})()")
            assert [[s + 200, e + 200] for s, e in json.loads(drawn)] == [list(pair) for pair in bed]

    drive(viewer, tmp_path / "profile", steps)

"""The page of `segment --html` in a real browser: zoom, pan, jump and hover, by mouse and by keyboard."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from browser import Page, drive

from dnachunker.cli import main
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.tracks.viewer import ViewedRegion, write_viewer


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


async def place(page: Page) -> tuple[int, int]:
    """First and last base in view, read from the coordinate field of the page."""
    text = await page.value("document.getElementById('place').value")
    first, last = text.rpartition(":")[2].replace(",", "").split("-")
    return int(first), int(last)


def drive_viewer(viewer: Path, profile: Path, steps: Callable[[Page], Awaitable[None]]) -> None:
    drive(viewer.as_uri(), profile, steps, ready="!!document.getElementById('place')")


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
        assert await place(page) == (1, 60)

    drive_viewer(tmp_path / "viewer.html", tmp_path / "profile", steps)


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
        assert await place(page) == (201, 2200)
        box = await page.value("(({x, y, width, height}) => ({x, y, width, height}))(strip.getBoundingClientRect())")
        middle, row = box["x"] + 104 + (box["width"] - 104) / 2, box["y"] + 75
        # the wheel zooms around the mouse
        await page.mouse("mouseWheel", middle, row, deltaX=0, deltaY=-400)
        first, last = await place(page)
        assert 700 < last - first < 780
        assert abs((first + last) / 2 - 1200) < 3
        # dragging moves the sequence with the mouse
        await page.mouse("mousePressed", middle, row, button="left", buttons=1, clickCount=1)
        await page.mouse("mouseMoved", middle + 100, row, button="left", buttons=1)
        await page.mouse("mouseReleased", middle + 100, row, button="left", clickCount=1)
        moved = await place(page)
        assert first - 110 < moved[0] < first - 40
        # coordinates jump, in this region and to another
        await page.value("place.focus(); place.value = 'a:921-1,000'; controls.requestSubmit()")
        assert await place(page) == (921, 1000)
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
        assert (await place(page))[1] - (await place(page))[0] <= 41
        before = await page.value("view.from")
        await page.key("ArrowRight")
        assert await page.value("view.from") == before + 8
        await page.key("n")
        start = round(await page.value("shown.start + view.from + view.span / 2"))
        assert start in {s for s, _ in beds[1]}
        await page.key("0")
        assert await place(page) == (201, 2200)
        await page.value("place.value = 'b:1-50'; controls.requestSubmit()")
        assert await place(page) == (1, 50)
        assert await page.value("select.selectedOptions[0].textContent") == "b:1-300"
        # every base is drawn in one chunk of each stage, as in the tracks
        await page.value("choose(0)")
        for stage, bed in enumerate(beds):
            walk = f"for (let i = 0; i < 2000; i = out.at(-1)[1]) out.push(chunk({stage}, i).slice(0, 2))"
            drawn = await page.value(f"(() => {{ const out = []; {walk}; return JSON.stringify(out); }})()")
            assert [[s + 200, e + 200] for s, e in json.loads(drawn)] == [list(pair) for pair in bed]

    drive_viewer(viewer, tmp_path / "profile", steps)

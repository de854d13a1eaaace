"""Drives a page in headless Chromium through the DevTools protocol."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

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


def drive(url: str, profile: Path, steps: Callable[[Page], Awaitable[None]], *, ready: str = "true") -> None:
    """Open a page in a headless browser, and run `steps(page)` once it is loaded and the expression `ready` holds.

    Args:
        profile: folder for the browser, not there yet.
    """
    if BROWSER is None:
        pytest.skip("no Chromium: apt-get install chromium")
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,700",
        f"--user-data-dir={profile}", "--remote-debugging-port=0", url,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_drive(url, profile / "DevToolsActivePort", steps, ready))
    finally:
        process.kill()  # its profile is deleted anyway
        process.wait()


async def _drive(url: str, port_file: Path, steps: Callable[[Page], Awaitable[None]], ready: str) -> None:
    deadline = time.monotonic() + 60
    while not (port_file.exists() and port_file.read_text().count("\n")):
        assert time.monotonic() < deadline, "the browser did not start"
        await asyncio.sleep(0.1)
    port = port_file.read_text().splitlines()[0]
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page" and tab["url"].startswith(url)]
            if tabs:
                break
            assert time.monotonic() < deadline, "the page did not open"
            await asyncio.sleep(0.1)
        async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            while not await page.value(f"document.readyState === 'complete' && {ready}"):
                await asyncio.sleep(0.1)
            await steps(page)

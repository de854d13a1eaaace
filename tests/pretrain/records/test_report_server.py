"""`dnachunker report --serve`: a page that follows a run, and its charts in a real browser."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest
from browser import Page, drive
from event_logs import add, evaluation, new_run, node, start, step

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.records.report_server import report_server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return new_run(tmp_path / "run", steps=4)


@pytest.fixture
def url(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("dnachunker.pretrain.records.report_server._BUSY_SHARE", 1e9)  # each request sees all news
    server = report_server([run], run / "report.html")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, **headers: str) -> HTTPResponse:
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers))


def status(url: str, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as found:
        get(url, **headers)
    return found.value.code


def test_the_page_follows_the_log_and_answers_this_machine_alone(run: Path, url: str) -> None:
    assert b"no step has been logged yet" in get(url).read()
    assert not (run / "report.html").exists()
    add(run, [start(), step(1)])
    first = get(url)
    body = first.read()
    assert b"of 4 steps" in body
    assert (run / "report.html").read_bytes() == body
    assert status(url, **{"If-None-Match": first.headers["ETag"]}) == 304
    add(run, [step(2), evaluation(2, 1.2)])
    assert b">-0.0800</b>" in get(url, **{"If-None-Match": first.headers["ETag"]}).read()
    assert status(url, Host="elsewhere.example:80") == 403  # a name that was pointed at this address
    assert status(f"{url}config.yaml") == 404
    with pytest.raises(BadInput, match=r"--port \d+: cannot be used"):
        report_server([run], run / "report.html", int(url.rpartition(":")[2].strip("/")))


def test_charts_can_be_read_zoomed_and_toggled_and_news_keep_the_view(run: Path, url: str, tmp_path: Path) -> None:
    add(run, [start(), step(1), evaluation(1, 1.31), step(2), evaluation(2, 1.21)])
    slowest = {"slowest_rank": 1, "slowest_node": "node1", "slowest_over_median": 1.8}
    nodes = {"node0": node(), "node1": node(forward_seconds=0.9)}

    async def steps(page: Page) -> None:
        # the first sample of the machines brings new charts, and hidden curves stay hidden
        await page.value("document.querySelectorAll('.u-legend .u-series')[3].querySelector('th').click()")
        add(run, [{"event": "system", "time": 4.0, "steps_done": 2, **nodes, **slowest}])
        await page.value("document.dispatchEvent(new Event('visibilitychange'))")
        while not await page.value("document.querySelectorAll('#charts-system .chart').length"):
            pass
        assert await page.value("document.querySelectorAll('.u-legend .u-series')[3].className") == "u-series u-off"
        titles = await page.value("[...document.querySelectorAll('h3')].map((title) => title.firstChild.data).join()")
        assert titles.startswith("Held-out [MASK] loss beside Markov models,Training loss and held-out loss")
        assert titles.endswith("CPU,Memory,Waiting for data, slowest rank,Forward pass, slowest rank")
        legend = "document.querySelector('.u-legend').innerText.replace(/\\s+/g, ' ')"
        assert "held out, [MASK]1.21" in await page.value(legend)  # without a pointer, the latest
        box = await page.value("document.querySelector('.u-over').getBoundingClientRect().toJSON()")
        left, middle = box["x"] + 3, box["y"] + box["height"] / 2
        await page.mouse("mouseMoved", left, middle)
        assert "steps1held out, [MASK]1.31" in await page.value(legend)
        # a drag zooms all charts
        half = box["x"] + box["width"] / 2
        await page.mouse("mousePressed", half, middle, button="left", buttons=1, clickCount=1)
        await page.mouse("mouseMoved", box["x"] + box["width"] - 1, middle, button="left", buttons=1)
        await page.mouse("mouseReleased", box["x"] + box["width"] - 1, middle, button="left", clickCount=1)
        begins = (
            "[...document.querySelectorAll('.chart')].slice(0, 3).map(({plot}) => plot.scales.x.min.toFixed(1)).join()"
        )
        assert await page.value(begins) == "1.5,1.5,1.5"
        # a click hides a curve
        await page.value("document.querySelectorAll('.u-legend .u-series')[2].querySelector('th').click()")
        assert await page.value(
            "document.querySelector('#body .warning').innerText.includes('rank 1 on node1, 1.80 times the median')"
        )
        # news arrive: new numbers, and the view is as it was
        add(run, [step(3), evaluation(3, 1.11)])
        await page.value("document.dispatchEvent(new Event('visibilitychange'))")
        while "-0.1700" not in await page.value("document.querySelector('.headline').innerText"):
            pass
        assert await page.value(begins) == "1.5,1.5,1.5"
        hidden = "[2, 3, 4].map((row) => document.querySelectorAll('.u-legend .u-series')[row].className).join()"
        assert await page.value(hidden) == "u-series u-off,u-series u-off,u-series"
        # another axis
        await page.value("document.querySelectorAll('.axes button')[2].click()")
        assert await page.value("document.querySelector('.axes [aria-pressed=true]').innerText") == "FLOPs"
        assert await page.value("document.querySelector('.chart').plot.data[0].join()") == "5000,10000,15000"
        assert await page.value("document.documentElement.scrollWidth <= innerWidth")
        # a finger zooms too
        for kind, x in (("touchStart", half), ("touchMove", half + 100)):
            await page.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": middle}])
        await page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        zoomed = "document.querySelector('.chart').plot.scales.x"
        assert await page.value(f"{zoomed}.min > 5500 && {zoomed}.max < 14500")

    drive(url, tmp_path / "profile", steps, ready="!!document.querySelector('.u-over')")

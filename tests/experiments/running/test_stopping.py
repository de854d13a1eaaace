"""How a stop request reaches the running steps of a sweep."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dnachunker.experiments.running.stopping import Running, on_file

Start = Callable[[str, int], "subprocess.Popen[bytes]"]

# Writes a byte for every SIGTERM, and ends after the given number of them.
SAVING = """
import pathlib, signal, sys, time
told = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: told.open("a").write("x"))
told.with_suffix(".ready").touch()
while not told.exists():
    time.sleep(0.01)
while len(told.read_text()) < int(sys.argv[2]):
    time.sleep(0.01)
time.sleep(0.5)  # so that one SIGTERM too many is seen
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that writes a byte to the named file for every SIGTERM, and ends after the given number."""
    started = []

    def begin(name: str, times: int) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([sys.executable, "-c", SAVING, str(tmp_path / name), str(times)])
        started.append(process)
        while not (tmp_path / name).with_suffix(".ready").exists():
            assert process.poll() is None
            time.sleep(0.01)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_every_command_is_asked_once_until_the_user_asks_again(start: Start, tmp_path: Path) -> None:
    running = Running()
    slow, late = start("slow", 2), start("late", 2)
    running.processes.add(slow)
    running.stop()
    running.processes.add(late)  # started while the signal came
    for _ in range(3):
        running.stop()  # as when another cell has ended, and its error stops the rest
        time.sleep(0.1)
    while not (tmp_path / "slow").exists() or not (tmp_path / "late").exists():
        time.sleep(0.01)  # two signals that are not handled yet count as one
    assert slow.poll() is late.poll() is None
    running.stop(again=True)
    assert slow.wait(60) == late.wait(60) == 0
    assert (tmp_path / "slow").read_text() == (tmp_path / "late").read_text() == "xx", "asked once, and told once"


def test_commands_end_with_the_worker_that_started_them(start: Start, tmp_path: Path) -> None:
    running = Running()
    process = start("trains", 1)
    running.processes.add(process)

    def end() -> None:
        with on_file(tmp_path / "stop", running):
            raise SystemExit(15)  # what Ray makes of a SIGTERM to its worker

    with pytest.raises(SystemExit):
        end()
    assert process.wait(60) == 0
    assert (tmp_path / "trains").read_text() == "x"


def test_a_file_stops_them(start: Start, tmp_path: Path) -> None:
    running = Running()
    process = start("trains", 1)
    running.processes.add(process)
    with on_file(tmp_path / "stop", running):
        assert process.poll() is None
        (tmp_path / "stop").touch()
        assert process.wait(60) == 0
    assert running.stopped

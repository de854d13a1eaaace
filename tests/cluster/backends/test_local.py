"""The supervisor's exit code and signal forwarding, with small ranks under the real launcher."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from dnachunker.cluster.backends.local import EXIT_FOLDER_VARIABLE, run_local

RANK = """
import os, pathlib, signal, sys, time
rank = int(os.environ["RANK"])
folder = pathlib.Path(os.environ["%s"])
def leave(code):
    (folder / f"rank-{rank}").write_text(str(code))
    sys.exit(code)
if sys.argv[1] == "codes":
    codes = [int(code) for code in sys.argv[2:]]
    if not codes[rank]:
        time.sleep(600)
    (folder / f"rank-{rank}").write_text(str(codes[rank]))
    while not all((folder / f"rank-{other}").exists() for other, code in enumerate(codes) if code):
        time.sleep(0.01)  # when the first rank ends, the launcher ends those that are still starting
    sys.exit(codes[rank])
if sys.argv[1] == "killed":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as if the rank hung in a collective
    pathlib.Path(sys.argv[2], str(rank)).touch()
    while not pathlib.Path(sys.argv[2], str(1 - rank)).exists():
        time.sleep(0.1)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(1000):
        pathlib.Path(sys.argv[2], "alive").touch()
        time.sleep(0.1)
def saved(number, frame):
    with open(pathlib.Path(sys.argv[2], f"received-{rank}"), "a") as file:
        file.write("x")
    time.sleep(1.5)  # long enough for the launcher to end a rank that got no signal
    leave(3)
signal.signal(signal.SIGTERM, saved)
pathlib.Path(sys.argv[2], str(rank)).touch()
time.sleep(60)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "small_rank.py").write_text(RANK % EXIT_FOLDER_VARIABLE)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_the_code_that_forbids_a_restart_wins(environment: dict[str, str]) -> None:
    assert run_local(["small_rank", "codes", "3", "2"], 2, environment) == 2


def test_a_rank_that_fails_ends_the_others(environment: dict[str, str]) -> None:
    began = time.monotonic()
    assert run_local(["small_rank", "codes", "0", "4"], 2, environment) == 4
    assert time.monotonic() - began < 300


def test_ranks_that_hang_after_another_was_killed_are_ended(environment: dict[str, str], tmp_path: Path) -> None:
    assert run_local(["small_rank", "killed", str(tmp_path)], 2, environment) == 128 + signal.SIGKILL
    both, last = (max((tmp_path / name).stat().st_mtime for name in names) for names in (("0", "1"), ("alive",)))
    assert last - both < 25  # the launcher alone would wait 30 s for the rank that ignores SIGTERM


def test_sigterm_reaches_every_rank_once(environment: dict[str, str], tmp_path: Path) -> None:
    def interrupt() -> None:
        while len([p for p in tmp_path.iterdir() if p.name in "01"]) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run_local(["small_rank", "wait", str(tmp_path)], 2, environment) == 3
    assert [(tmp_path / f"received-{rank}").read_text()[:1] for rank in (0, 1)] == ["x", "x"]

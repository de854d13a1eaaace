"""Which rank the watchdog blames, and what it leaves behind of a run that hung."""

import threading
from pathlib import Path

import pytest

from dnachunker.pretrain.safety.watchdog import HUNG, Watchdog, blame


def report(number: int, call: str = "forward", age: float = 0.0) -> dict[str, object]:
    return {"number": number, "call": call, "step": 7, "stuck": 61.0, "age": age}


@pytest.mark.parametrize(
    ("reports", "speaker", "line"),
    [
        ({0: report(30, "backward"), 1: report(29)}, 0, "rank 1 has been in forward of step 7 for 61 s"),
        (
            {0: report(30), 1: report(30, "backward", age=55.0)},
            0,
            "rank 1 has been silent for 55 s; it was last seen in backward",
        ),
        ({0: report(30, age=55.0), 1: report(30)}, 1, "rank 0 has been silent"),
        ({1: report(30)}, 1, "rank 0 has never reported"),
        ({0: report(30, "save"), 1: report(30, "save")}, 0, "all ranks have been in save"),
    ],
)
def test_the_watchdog_blames_the_silent_then_the_one_behind(
    reports: dict[int, dict[str, object]], speaker: int, line: str
) -> None:
    found = blame(reports, 2, quiet_after=20)
    assert found[0] == speaker
    assert found[1].startswith(line)


def test_all_ranks_write_their_stacks_before_a_hung_run_ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    left: list[int] = []
    dogs: list[Watchdog] = []
    both_left = threading.Barrier(3, action=lambda: [dog._closed.set() for dog in dogs])

    def leave(code: int) -> None:
        left.append(code)
        assert {path.name for path in (tmp_path / "stacks").iterdir()} == {"rank-0.txt", "rank-1.txt"}
        both_left.wait(30)  # as if the process had ended here

    for rank, limit in enumerate((8.0, 0.8)):  # rank 1 gives up first
        dogs.append(Watchdog(tmp_path, rank, 2, limit=limit, orphaned=print, leave=leave))
        dogs[rank].enter("backward", 5)

    def a_call_that_hangs() -> None:
        both_left.wait(30)

    a_call_that_hangs()
    assert left == [HUNG, HUNG]
    assert f"answered are in {tmp_path}/stacks/rank-*.txt; ending the job" in capfd.readouterr().err
    for rank in range(2):
        text = (tmp_path / "stacks" / f"rank-{rank}.txt").read_text()
        assert text.startswith(f"rank {rank}: ")
        assert "s in backward of step 5" in text
        assert "in a_call_that_hangs" in text

"""Faults of GPU ranks: NaN on one rank, and a rank that is killed. What is trained after them equals the CPU's."""

from pathlib import Path

import pytest
from matrix import Case, Matrix, ended, events, losses

pytestmark = [pytest.mark.nullgpu, pytest.mark.timeout(600)]

NAN = {"kind": "nan_loss", "rank": 1}
NAN_ONCE = {**NAN, "steps": [1]}


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_nan_on_one_rank_is_applied_by_none(matrix: Matrix, tmp_path: Path, stage: int) -> None:
    wanted = matrix.losses_of_cpu(ranks=2, fault=NAN_ONCE)
    case = Case(f"ZeRO {stage}, NaN on rank 1", how=(f"engine.zero_stage={stage}",), ranks=(2,))
    matrix.start()
    run = tmp_path / "run"
    ended(matrix.gpus.start(run, *case.how, fault=NAN_ONCE), [0, 0])
    assert [event["step"] for event in events(run, "guard")] == [1]
    matrix.add(case, run, wanted, without=2)


def test_nan_again_and_again_stops_every_rank_and_leaves_a_good_checkpoint(matrix: Matrix, tmp_path: Path) -> None:
    wanted = matrix.losses_of_cpu(ranks=2, fault=NAN_ONCE)
    case = Case("ZeRO 1, NaN until the guard stops", how=("guards.nonfinite_limit=2", "checkpoint.every=1"))
    matrix.start()
    run = tmp_path / "run"
    printed = ended(matrix.gpus.start(run, *case.how, fault={**NAN, "steps": [1, 2]}), [4, 4])
    assert "2 steps in a row were not finite" in printed
    assert len(list((run / "dumps").iterdir())) == 2
    ended(matrix.gpus.start(run, *case.how), [0, 0])
    assert [event["steps_done"] for event in events(run, "resume")] == [2]
    matrix.add(case, run, wanted, without=2)


def test_a_restart_after_the_kill_of_a_rank_has_the_losses_of_the_cpu(matrix: Matrix, tmp_path: Path) -> None:
    wanted = matrix.losses_of_cpu()
    case = Case("ZeRO 1, rank 1 is killed", how=("checkpoint.every=2",))
    matrix.start()
    run = tmp_path / "run"
    job = matrix.gpus.start(run, *case.how, fault={"kind": "kill_in_backward", "rank": 1, "step": 3})
    ended(job, [-9, -9])  # rank 0 waits for rank 1, until the launcher ends it
    assert not any(Path(f"/proc/{pid}").exists() for pid in job.ranks)
    before = losses(run)
    ended(matrix.gpus.start(run, *case.how), [0, 0])
    assert [event["steps_done"] for event in events(run, "resume")] == [2]
    assert losses(run)[3] == before[3], "step 3 was taken twice"
    matrix.add(case, run, wanted)

"""The curves of a run stand where the work they show was done."""

from pathlib import Path

import pytest
from event_logs import add, evaluation, new_run, start, step

from dnachunker.pretrain.records.run_curves import RunCurves


def test_curves_stand_against_steps_bases_flops_and_hours_of_work(tmp_path: Path) -> None:
    """With a record every other step, and an hour of sleep between two starts."""
    run = new_run(tmp_path / "run", steps=6)
    add(run, [start(0), step(2, time=1800), evaluation(3, 1.3, time=2700), step(4, time=3600)])
    add(run, [start(7200, steps_done=4) | {"event": "resume"}, step(6, time=9000, loss=None)])
    columns = RunCurves(run, "run").columns("step", ["mlm_loss"])
    assert columns["steps"] == [2, 4, 6]
    assert columns["bases"] == [2000, 4000, 6000]  # a record stands for the step before it too
    assert columns["flops"] == [10_000, 20_000, 30_000]
    assert columns["hours"] == [0.5, 1.0, 1.5]
    assert columns["mlm_loss"] == [1.3, 1.3, None]
    held_out = RunCurves(run, "run").columns("evaluation", ["over_order5"])
    assert (held_out["bases"], held_out["hours"]) == ([3000], [0.75])
    assert held_out["over_order5"] == [pytest.approx(0.02)]


def test_a_log_without_flops_has_no_such_axis(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", steps=2)
    events = [step(1), step(2)]
    add(run, [start(), *({key: value for key, value in event.items() if key != "flops"} for event in events)])
    assert "flops" not in RunCurves(run, "run").columns("step", ["mlm_loss"])


def test_a_long_curve_is_shortened_to_means_of_neighbours(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", steps=2500)
    add(run, [start(), *(step(done, loss=float(done)) for done in range(1, 2501))])
    columns = RunCurves(run, "run").columns("step", ["mlm_loss"])
    assert columns["mlm_loss"][:2] == columns["steps"][:2] == [2, 5]
    assert len(columns["steps"]) == 834


def test_a_spike_does_not_bend_the_smoothed_training_loss(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", steps=20)
    add(run, [start(), *(step(done, loss=50.0 if done == 10 else 1.3) for done in range(1, 21))])
    assert set(RunCurves(run, "run").columns("step", ["mlm_loss.smooth"])["mlm_loss.smooth"]) == {1.3}

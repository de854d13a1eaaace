"""Runs that start from the weights of other runs, at every ZeRO stage, with two ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_ranks import STEPS

from dnachunker.pretrain.records.event_log import read_events

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def of_kind(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == kind]


def evaluations(run: Path) -> dict[int, dict[str, Any]]:
    return {event.pop("steps_done"): {**event, "time": 0} for event in of_kind(run, "evaluation")}


def test_step_0_repeats_the_parents_held_out_loss_to_the_bit_and_a_resume_needs_no_parent(
    ranks: Any, quiet: Path, tmp_path: Path
) -> None:
    parent, fingerprints = quiet, set()
    for number, stage in enumerate((3, 0, 2, 1)):
        child = tmp_path / str(number)
        asked = (f"init.model={parent}", f"engine.zero_stage={stage}", "steps=4", "seed=9", "optimizer.lr=1e-3")
        if stage == 3:
            job = ranks.start(child, *asked, fault={"kind": "stop_in_backward", "rank": 1, "step": 1})
            assert job.end() == [3, 3], job.printed()
            away = parent.rename(parent.with_name("away"))
            ranks.finish(child, *asked)
            away.rename(parent)
            assert of_kind(child, "resume")[-1]["steps_done"] == 2
        else:
            ranks.finish(child, *asked)
        last = max(evaluations(parent))
        assert evaluations(child)[0] == evaluations(parent)[last], f"ZeRO stage {stage}"
        assert evaluations(child)[4]["masked_loss"] != evaluations(child)[0]["masked_loss"]
        state = json.loads(next((child / "checkpoints").glob("step-00000004/run_state.json")).read_text())
        assert state["parent"]["model"] == str(parent)
        assert state["parent"]["steps_done"] == (STEPS if parent is quiet else 4)
        fingerprints.add(state["parent"]["fingerprint"])
        parent = child
    assert len(fingerprints) == 4

    exported, child = tmp_path / "export", tmp_path / "of-an-export"
    assert ranks.export(parent, exported).end() == [0]
    ranks.finish(child, f"init.model={exported}", "steps=1")
    assert evaluations(child)[0] == evaluations(parent)[4]
    card = (exported / "README.md").read_text()
    assert "started from the weights of `2` after 4 steps, with a fresh optimizer" in card
    assert str(tmp_path) not in card


def test_a_rate_for_each_stage_survives_a_stop_and_another_number_of_ranks(ranks: Any, tmp_path: Path) -> None:
    asked = ("optimizer.stage_lr=auto", "engine.zero_stage=3", "schedule.ratio_warmup=0.5")
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    ranks.finish(straight, *asked)
    job = ranks.start(broken, *asked, fault={"kind": "stop_in_backward", "rank": 0, "step": 5})
    assert job.end() == [3, 3], job.printed()
    ranks.finish(broken, *asked, world_size=1)
    losses = [[event["loss"] for event in of_kind(run, "step")] for run in (straight, broken)]
    assert len(losses[0]) == STEPS
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    refused = ranks.start(straight, "engine.zero_stage=3", "schedule.ratio_warmup=0.5", world_size=1)
    assert refused.end() == [2]
    assert "optimizer.stage_lr was 'auto' and is now None" in refused.printed()

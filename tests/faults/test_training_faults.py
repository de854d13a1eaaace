"""After each fault that a test can cause, the same command continues the training run as if there had been no fault."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from training_ranks import STEPS

from dnachunker.pretrain.checkpoints.saving import verify_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def losses(run: Path) -> dict[int, float]:
    """Training loss by step; a step that was repeated after a resume counts once."""
    return {event["steps_done"]: event["loss"] for event in of_kind(run, "step")}


def of_kind(run: Path, kind: str) -> list[dict[str, Any]]:
    from dnachunker.pretrain.records.event_log import read_events

    return [event for event in read_events(run) if event["event"] == kind]


def test_sigterm_to_one_rank_saves_and_stops_all(ranks: Any, quiet: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = ranks.start(run, "checkpoint.every=1")  # the signal comes during a write
    job.signal_at(2, 1, signal.SIGTERM)
    assert job.end() == [3, 3], job.printed()
    saved = of_kind(run, "interrupt")[0]["steps_done"]
    ranks.finish(run)
    assert of_kind(run, "resume")[-1]["steps_done"] == saved
    assert losses(run) == losses(quiet)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_takes_the_others_along_and_a_restart_continues(
    ranks: Any, quiet: Path, tmp_path: Path, rank: int
) -> None:
    run = tmp_path / "run"
    began = time.monotonic()
    job = ranks.start(run, fault={"kind": "kill_in_backward", "rank": rank, "step": 6})
    codes = job.end()
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] != 0
    assert time.monotonic() - began < 110
    ranks.finish(run)
    assert of_kind(run, "resume")[-1]["steps_done"] == 4
    assert losses(run) == losses(quiet)


def test_a_killed_rank_of_a_context_group_takes_both_groups_along_and_a_restart_continues(
    ranks: Any, tmp_path: Path
) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"
    shared = "engine.context_parallel=2", "steps=8", "evaluation.every=8"
    ranks.finish(straight, *shared, world_size=4)
    job = ranks.start(run, *shared, world_size=4, fault={"kind": "kill_in_backward", "rank": 1, "step": 6})
    while Path(f"/proc/{job.ranks[1]}").exists():
        time.sleep(0.01)
    killed = time.monotonic()
    codes = job.end()
    assert time.monotonic() - killed < 10
    assert codes[1] == -signal.SIGKILL
    assert 0 not in codes
    ranks.finish(run, *shared, world_size=4)
    assert of_kind(run, "resume")[-1]["steps_done"] == 4
    assert losses(run) == losses(straight)


@pytest.mark.parametrize(("rank", "asynchronous"), [(0, "true"), (1, "false")])
def test_a_kill_at_any_write_of_a_save_loses_no_complete_checkpoint(
    ranks: Any, quiet: Path, tmp_path: Path, rank: int, asynchronous: str
) -> None:
    run, log = tmp_path / "run", tmp_path / "writes"
    at_each_step = ["checkpoint.every=1", "evaluation.every=1000", f"checkpoint.asynchronous={asynchronous}"]
    number, saved = 1, 0
    while True:
        log.write_text("")
        fault = {"kind": "watch_writes", "rank": rank, "log": str(log), "kill_at": number}
        job = ranks.start(run, *at_each_step, fault=fault)
        codes = job.end()
        if codes == [0, 0]:
            break  # the run has passed all boundaries of its saves
        assert codes[rank] == -signal.SIGKILL, job.printed()
        resumed = [event["steps_done"] for event in of_kind(run, "resume")]
        assert (resumed[-1] if resumed else 0) >= saved, "a complete checkpoint was lost"
        saved = max(saved, *resumed, 0)
        number += 3 if rank else 2
    assert number > 2
    assert losses(run) == losses(quiet)
    assert not list((run / "checkpoints").glob(".step-*"))


def test_a_save_waits_for_the_one_that_is_still_written(ranks: Any, tmp_path: Path) -> None:
    run, straight, steps = tmp_path / "run", tmp_path / "straight", 4
    at_each_step = ["checkpoint.every=1", f"checkpoint.keep={steps}", f"steps={steps}"]
    job = ranks.start(run, *at_each_step, fault={"kind": "slow_writes", "rank": "all", "seconds": 1})
    assert job.end() == [0, 0], job.printed()
    ranks.finish(straight, *at_each_step, "checkpoint.asynchronous=false")
    saved = of_kind(run, "checkpoint")
    assert [event["steps_done"] for event in saved] == [1, 2, 3, 4]
    assert any(event["seconds"] > 0.5 for event in saved[:-1]), "no save came while another was written"
    assert losses(run) == losses(straight)
    for event in saved:
        folders = [where / "checkpoints" / event["folder"] for where in (run, straight)]
        manifests = []
        for folder in folders:
            verify_checkpoint(folder)
            manifests.append(json.loads((folder / "manifest.json").read_text()))
            manifests[-1].pop("run_state.json")  # it names the settings
        assert manifests[0] == manifests[1], "the same weights and moments, to the bit"


def test_a_full_disk_during_a_save_is_one_line_and_the_checkpoint_before_it_is_used(
    ranks: Any, quiet: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = ranks.start(run)
    job.signal_at(4, 0, signal.SIGTERM)
    assert job.end() == [3, 3]
    largest = max(path.stat().st_size for path in (run / "checkpoints").rglob("rank-*"))
    fault = {"kind": "small_files", "rank": 1, "limit": largest // 2}
    job = ranks.start(run, fault=fault)  # the thread finds the disk full
    assert 1 in job.end()
    assert "cannot be written" in job.printed()
    assert "Traceback" not in job.printed()
    ranks.finish(run)
    assert losses(run) == losses(quiet)


def test_nan_on_one_rank_is_applied_by_none_at_any_stage(ranks: Any, tmp_path: Path) -> None:
    found = {}
    for stage, rank in ((0, 1), (1, 1), (3, 1), (0, 0)):
        run = tmp_path / f"{stage}-{rank}"
        override = f"engine.zero_stage={stage}"
        job = ranks.start(run, override, fault={"kind": "nan_loss", "rank": rank, "steps": [2, 6, 7, 8]})
        assert job.end() == [4, 4], job.printed()
        assert "3 steps in a row" in job.printed()
        assert [event["step"] for event in of_kind(run, "guard")] == [2, 6, 7, 8]
        dump = json.loads((run / "dumps" / "step-00000008-nonfinite.json").read_text())
        assert len(dump["windows"]) == 8, "the windows of all ranks"
        ranks.finish(run, override)
        assert of_kind(run, "resume")[-1]["steps_done"] == 8
        found[stage, rank] = losses(run)
    # the same updates were left out for every rank with the NaN and every ZeRO stage
    for steps in found.values():
        finite = {step: loss for step, loss in steps.items() if step not in (3, 7, 8)}
        assert finite == pytest.approx({step: found[0, 0][step] for step in finite}, abs=1e-4)
    assert found[0, 1] == found[0, 0]


def test_a_spike_is_rolled_back_and_its_batch_left_out(ranks: Any, quiet: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fault = {"kind": "spike", "rank": "all", "step": 9, "once": str(tmp_path / "spiked")}
    job = ranks.start(run, "guards.spike=roll_back", fault=fault)
    assert job.end() == [0, 0], job.printed()
    assert json.loads((run / "skipped_batches.json").read_text()) == [9]
    assert of_kind(run, "resume")[-1]["steps_done"] == 8
    dump = json.loads((run / "dumps" / "step-00000009-spike.json").read_text())
    assert len(dump["windows"]) == 8
    before, after = losses(quiet), losses(run)
    assert {step: after[step] for step in range(1, 10)} == {step: before[step] for step in range(1, 10)}
    assert after[10] != before[10], "step 10 takes the batch after the one left out"
    assert len(after) == STEPS


def test_a_frozen_rank_is_named_with_its_phase_and_ends_the_job(ranks: Any, quiet: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fault = {"kind": "freeze_in_backward", "rank": 1, "step": 5}
    job = ranks.start(run, "guards.hang_seconds=24", fault=fault)
    assert job.end() == [1, -signal.SIGKILL]
    assert "rank 1 has been silent" in job.printed()
    assert "backward of step 5" in job.printed()
    assert "stacks/rank-*.txt" in job.printed()
    assert "trainer.py" in (run / "stacks" / "rank-0.txt").read_text(), "the rank that waited says where"
    ranks.finish(run)
    assert losses(run) == losses(quiet)


def test_a_corrupt_newest_checkpoint_is_named_and_the_one_before_it_used(
    ranks: Any, quiet: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = ranks.start(run)
    job.signal_at(9, 0, signal.SIGTERM)
    assert job.end() == [3, 3]
    newest = max((run / "checkpoints").glob("step-*"))
    damaged = next(newest.rglob("rank-*"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    job = ranks.finish(run)
    assert damaged.name in job.printed()
    assert of_kind(run, "resume")[-1]["steps_done"] == 8
    assert losses(run) == losses(quiet)


def test_a_changed_corpus_seed_or_batch_is_refused_by_name_and_nothing_is_lost(
    ranks: Any, quiet: Path, other_corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = ranks.start(run)
    job.signal_at(5, 0, signal.SIGTERM)
    assert job.end() == [3, 3], job.printed()
    before = (run / "config.yaml").read_bytes()
    for changes, corpus, named in (
        (["seed=7"], None, "seed was 0 and is now 7"),
        (["data.global_batch=4"], None, "global_batch was 8 and is now 4"),
        (["engine.precision=bf16"], None, "engine.precision was fp32 and is now bf16"),
        ([], other_corpus, "the corpus's content was"),
    ):
        refused = ranks.start(run, *changes, corpus=corpus)
        assert 2 in refused.end(), refused.printed()
        assert named in refused.printed()
        assert "Traceback" not in refused.printed()
        assert (run / "config.yaml").read_bytes() == before
    ranks.finish(run)
    assert losses(run) == losses(quiet)


def test_ranks_and_zero_stage_may_change_at_every_resume(ranks: Any, quiet: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for until, world_size, stage in ((2, 2, 1), (4, 4, 3), (6, 1, 2), (8, 2, 0)):
        override = f"engine.zero_stage={stage}"
        job = ranks.start(run, override, world_size=world_size)
        job.signal_at(until, 0, signal.SIGTERM)
        assert job.end() == [3] * world_size, job.printed()
    ranks.finish(run, "engine.zero_stage=3")
    assert [event["zero_stage"] for event in of_kind(run, "resume")] == [3, 2, 0, 3]
    assert losses(run) == pytest.approx(losses(quiet), abs=1e-6)
    assert not list((run / "checkpoints").glob(".*"))

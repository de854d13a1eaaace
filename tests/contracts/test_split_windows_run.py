"""Runs that cut windows, over ranks or into blocks of time: what they log is what a run on one rank logs."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_ranks import Ranks

from dnachunker.pretrain.records.event_log import read_events

# lengths that nothing divides, short windows at the ends of blocks, boundaries that are not forced
SETTINGS = (
    "steps=6", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4",
    "model.encoder_layers=[1,1]", "model.decoder_layers=[1,1]", "data.seq_len=149", "data.global_batch=4",
    "evaluation.windows=3", "evaluation.every=3", "checkpoint.every=100", "tracking.enabled=false",
    "guards.hang_seconds=120",
)  # fmt: skip
SAID = ("evaluation", "diagnostics", "segmentation")


@pytest.fixture(scope="module")
def ranks(sample_corpus: Path) -> Iterator[Ranks]:
    server = Ranks(sample_corpus, SETTINGS)
    yield server
    server.close()


@pytest.fixture(scope="module")
def alone(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank."""
    run = tmp_path_factory.mktemp("alone") / "run"
    ranks.finish(run, world_size=1)
    return run


def told(run: Path, kind: str) -> dict[int, dict[str, Any]]:
    """By step, the events of a kind, without times and rates."""
    passing = {"time", "seconds", "data_wait", "bases_per_second", "bases_per_second_per_device", "utilisation"}
    passing |= {"most_chunks"}  # of a rank
    events = [event for event in read_events(run) if event["event"] == kind]
    return {e["steps_done"]: {name: value for name, value in e.items() if name not in passing} for e in events}


def require_alike(run: Path, alone: Path) -> None:
    """What the two runs tell of steps and evaluations is the same but for rounding."""
    for kind in ("step", *SAID):
        found, expected = told(run, kind), told(alone, kind)
        assert found.keys() == expected.keys()
        for step, event in expected.items():
            require_close(found[step], event, f"{kind} {step}")


def require_close(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            require_close(found[name], expected[name], f"{where}: {name}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4, nan_ok=True), where
    else:
        assert found == expected, where


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_run_that_splits_windows_logs_what_a_run_on_one_rank_logs(
    ranks: Ranks, alone: Path, tmp_path: Path, zero_stage: int
) -> None:
    run = tmp_path / "run"
    ranks.finish(run, f"engine.zero_stage={zero_stage}", "engine.context_parallel=2", "engine.micro_batch=2")
    require_alike(run, alone)


@pytest.mark.slow
def test_a_run_in_blocks_of_time_logs_what_a_run_on_whole_windows_logs(
    ranks: Ranks, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"  # the blocks of a rank's second stage depend on its chunks, and ZeRO-3 gathers what they use
    blocks = "engine.layer_block=19", "engine.activation_checkpointing=true"
    ranks.finish(run, "engine.zero_stage=3", "engine.micro_batch=2", *blocks)
    require_alike(run, alone)


@pytest.mark.slow
def test_a_run_goes_on_with_another_split(ranks: Ranks, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = ranks.start(run, "engine.context_parallel=3", "engine.zero_stage=2", world_size=3)
    job.signal_at(2, rank=1, number=signal.SIGTERM)
    assert job.end() == [3, 3, 3], job.printed()
    ranks.finish(run, "engine.context_parallel=2", world_size=4)
    require_alike(run, alone)


@pytest.mark.slow
def test_windows_may_grow_and_more_ranks_share_them_at_every_resume(ranks: Ranks, tmp_path: Path) -> None:
    later = "{from_step: 2, seq_len: 599, global_batch: 2}, {from_step: 4, seq_len: 1193, global_batch: 1}"
    phases = f"data.curriculum=[{later}]"
    run, alone = tmp_path / "run", tmp_path / "alone"
    ranks.finish(alone, phases, world_size=1)
    for shared, until in ((1, 2), (2, 4)):
        job = ranks.start(run, phases, f"engine.context_parallel={shared}", world_size=shared)
        job.signal_at(until, rank=0, number=signal.SIGTERM)
        assert job.end() == [3] * shared, job.printed()
    ranks.finish(run, phases, "engine.context_parallel=4", world_size=4)
    assert len(told(run, "resume")) == 2
    require_alike(run, alone)

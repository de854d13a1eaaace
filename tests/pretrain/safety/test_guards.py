"""What stops a run, which batches it leaves out, and what must not stop it twice."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import EngineSettings, GuardSettings
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.order.curriculum import SkippedBatches
from dnachunker.pretrain.run_folder import RunLock
from dnachunker.pretrain.safety.guards import LossGuards
from dnachunker.pretrain.safety.out_of_memory import is_out_of_memory, out_of_memory_line
from dnachunker.pretrain.safety.signals import StopSignals

ALONE = Rank(0, 1, 0, torch.device("cpu"))
NAN = float("nan")


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield StopSignals()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_request_that_arrives_three_times_is_one(signals: StopSignals) -> None:
    assert not signals.agreed(ALONE)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert signals.received == "SIGUSR1"
    assert signals.agreed(ALONE)
    signals.ignore()
    os.kill(os.getpid(), signal.SIGTERM)


def test_steps_that_are_not_finite_stop_the_run_only_in_a_row() -> None:
    guards = LossGuards(GuardSettings(nonfinite_limit=2))
    assert guards.judge(NAN, NAN, applied=False, step=0).stop == ""  # type: ignore[union-attr]
    assert guards.judge(1.3, 0.5, applied=True, step=1) is None
    assert guards.judge(1.3, float("inf"), applied=False, step=2).stop == ""  # type: ignore[union-attr]
    resumed = LossGuards(GuardSettings(nonfinite_limit=2), guards.state())
    verdict = resumed.judge(NAN, NAN, applied=False, step=3)
    assert verdict is not None
    assert "2 steps in a row" in verdict.stop


def test_an_update_made_with_values_that_are_not_finite_stops_the_run_at_once() -> None:
    verdict = LossGuards(GuardSettings()).judge(NAN, 0.3, applied=True, step=0)
    assert verdict is not None
    assert "the update was made" in verdict.stop


def test_a_spike_is_told_from_noise_and_does_not_hide_the_next() -> None:
    guards = LossGuards(GuardSettings(spike_score=6, spike_window=32))
    for step in range(40):
        assert guards.judge(1.3 + 0.02 * (step % 5), 1.0, applied=True, step=step) is None
    for step in (40, 41):
        verdict = guards.judge(2.5, 1.0, applied=True, step=step)
        assert verdict is not None
        assert verdict.kind == "spike"
    again = LossGuards(GuardSettings(spike_score=6, spike_window=32), guards.state())
    assert again.judge(2.5, 1.0, applied=True, step=42) == guards.judge(2.5, 1.0, applied=True, step=42)


def test_left_out_batches_shift_those_after_them_and_are_remembered(tmp_path: Path) -> None:
    skipped = SkippedBatches(tmp_path)
    skipped.add(5)
    skipped.add(2)
    assert [SkippedBatches(tmp_path).batch_of(step) for step in range(6)] == [0, 1, 3, 4, 6, 7]

    (tmp_path / "skipped_batches.json").write_text("[2")
    with pytest.raises(BadInput, match="skipped_batches.json"):
        SkippedBatches(tmp_path)


def test_running_out_of_memory_says_what_to_lower_first() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    line = out_of_memory_line(EngineSettings(activation_checkpointing=True), 3, "backward", 12)
    assert line.startswith("rank 3 ran out of memory in backward of step 12")
    assert line.index("engine.micro_batch") < line.index("zero_stage=2") < line.index("more ranks")
    assert "activation_checkpointing" not in line
    assert line.count("new run") == 1, "the precision is the run's, and the ZeRO stage may change at a resume"
    compiled = out_of_memory_line(EngineSettings(zero_stage=2, compile="on"), 0, "forward", 1)
    assert "zero_stage" not in compiled, "stage 3 cannot compile"


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    with pytest.raises(BadInput, match="another process"):
        RunLock(tmp_path)
    first.release()
    RunLock(tmp_path).release()

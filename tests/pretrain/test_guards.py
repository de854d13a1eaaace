"""What stops a run, and what must not stop it twice."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from failures import BadInput, GuardTripped
from pretrain.distributed import Rank
from pretrain.guards import StopSignals, require_applied, require_finite
from pretrain.run_lock import RunLock

ALONE = Rank(0, 1, 0, torch.device("cpu"))


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


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_and_windows(loss: float) -> None:
    require_finite(1.3, step=4, windows=lambda: pytest.fail("coordinates are not worked out for a healthy step"))
    with pytest.raises(GuardTripped, match=r"step 4.*chr2:0-8\(\+\)") as caught:
        require_finite(loss, step=4, windows=lambda: ["chr2:0-8(+)"])
    assert caught.value.code == 4


def test_an_update_that_was_skipped_or_not_finite_stops_the_run() -> None:
    require_applied(0.7, updates=5, step=4)
    for norm, updates in ((float("nan"), 5), (0.7, 4)):
        with pytest.raises(GuardTripped, match="step 4"):
            require_applied(norm, updates=updates, step=4)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    with pytest.raises(BadInput, match="another process"):
        RunLock(tmp_path)
    first.release()
    RunLock(tmp_path).release()

"""What stops a run in good order: signals, and losses that are not finite."""

import math
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from failures import GuardTripped

from .distributed import Rank

# Schedulers signal every process of a job, and the supervisor passes its own signal on: within this time it is one
# request that arrived several times; later it is a person who wants the process gone.
_ONE_REQUEST_SECONDS = 5.0


class StopSignals:
    """Turns SIGTERM, SIGINT and SIGUSR1 on any rank into one agreed stop at the next step border."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: str | None = None
        self._first_time = 0.0
        for number in self._SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._first_time = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._first_time > _ONE_REQUEST_SECONDS:
            os._exit(128 + number)  # the last complete checkpoint is what remains

    def agreed(self, rank: Rank) -> bool:
        """Whether any rank was signalled; the same answer on every rank (collective)."""
        return rank.any(self.received is not None)

    def ignore(self) -> None:
        """From now on let nothing interrupt this process: it is about to end anyway.

        The launcher terminates the other ranks as soon as one has ended with a code other than 0.
        """
        for number in self._SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def require_finite(loss: float, *, step: int, windows: Callable[[], list[str]]) -> None:
    """Refuse to apply a step whose loss, summed over all ranks, is NaN or infinite.

    Every rank sees the same sum, so all stop together and none has applied the step.

    Args:
        windows: gives the coordinates of this rank's windows; asked only when they are needed.

    Raises:
        GuardTripped: naming the step and this rank's windows.
    """
    if not math.isfinite(loss):
        named = windows()
        raise GuardTripped(
            f"step {step}: the loss is {loss}; no rank applied the step. Windows of this rank: {' '.join(named[:8])}"
            f"{' ...' if len(named) > 8 else ''}. Lower optimizer.lr or resume from the last checkpoint"
        )


def require_applied(grad_norm: float, *, updates: int, step: int) -> None:
    """Stop when the update of `step` was skipped, or was made with gradients that are not finite.

    DeepSpeed skips such an update in silence at some ZeRO stages and applies it at others; either way nothing has
    been saved since the last checkpoint. Every rank sees the same norm and count, so all stop together.

    Raises:
        GuardTripped: naming the step.
    """
    if not math.isfinite(grad_norm) or updates != step + 1:
        raise GuardTripped(
            f"step {step}: the gradients are not finite (norm {grad_norm}); the step is not saved. Lower optimizer.lr, "
            f"or run the same command again to continue from the last checkpoint"
        )

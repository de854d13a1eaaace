"""What stops a run in good order: signals, and losses that are not finite."""

import math
import os
import signal
from types import FrameType

from failures import GuardTripped

from .distributed import Rank


class StopSignals:
    """Turns SIGTERM, SIGINT and SIGUSR1 on any rank into one agreed stop at the next step border."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: str | None = None
        for number in self._SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)  # a second signal: the last complete checkpoint is what remains
        self.received = signal.Signals(number).name

    def agreed(self, rank: Rank) -> bool:
        """Whether any rank was signalled; the same answer on every rank (collective)."""
        return rank.any(self.received is not None)

    def ignore(self) -> None:
        """From now on let nothing interrupt this process: it is about to end anyway.

        The launcher terminates the other ranks as soon as one has ended with a code other than 0.
        """
        for number in self._SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def require_finite(loss: float, *, step: int, windows: list[str]) -> None:
    """Refuse to apply a step whose loss, summed over all ranks, is NaN or infinite.

    Every rank sees the same sum, so all stop together and none has applied the step.

    Raises:
        GuardTripped: naming the step and this rank's windows.
    """
    if not math.isfinite(loss):
        raise GuardTripped(
            f"step {step}: the loss is {loss}; no rank applied the step. Windows of this rank: {' '.join(windows[:8])}"
            f"{' ...' if len(windows) > 8 else ''}. Lower optimizer.lr or resume from the last checkpoint"
        )

"""Requests to stop: a signal on any rank becomes a stop of all ranks at the end of the step."""

import os
import signal
import time
from types import FrameType

from dnachunker.pretrain.engine.ranks import Rank

# Schedulers signal every process of a job, and the supervisor passes its own signal on: signals within this time are
# one request. After this time, another signal means that somebody wants the process to end at once.
_ONE_REQUEST_SECONDS = 5.0


class StopSignals:
    """Turns SIGTERM, SIGINT and SIGUSR1 on any rank into a stop of all ranks at the end of the step."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: str | None = None
        self._first_time = 0.0
        for number in self._SIGNALS:
            signal.signal(number, self._note)

    @property
    def seconds(self) -> float:
        """Since the first request that reached this rank; 0 without one."""
        return 0.0 if self.received is None else time.monotonic() - self._first_time

    def request(self, reason: str) -> None:
        """Ask for a stop as a signal would."""
        if self.received is None:
            self.received, self._first_time = reason, time.monotonic()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and time.monotonic() - self._first_time > _ONE_REQUEST_SECONDS:
            os._exit(128 + number)  # the last complete checkpoint stays
        self.request(signal.Signals(number).name)

    def agreed(self, rank: Rank) -> bool:
        """Whether any rank was signalled; the same answer on every rank (collective)."""
        return rank.any(self.received is not None)

    def ignore(self) -> None:
        """Ignore signals from now on, because this process is about to end.

        The launcher terminates the other ranks as soon as one rank has ended with a code other than 0.
        """
        for number in self._SIGNALS:
            signal.signal(number, signal.SIG_IGN)

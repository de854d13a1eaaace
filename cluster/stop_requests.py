"""Signals that ask a supervised job to stop: the first to save and leave, a later one to leave at once."""

import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)  # the last: its terminal was closed
ONE_REQUEST_SECONDS = 5.0  # terminals, shells and service managers signal a whole group, and some do it twice


def heeded() -> list[signal.Signals]:
    """The signals to listen to: all but a hang-up that `nohup` has asked us to ignore."""
    return [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]


class StopRequests:
    """Counts requests while entered; `wait` sleeps until the next."""

    def __init__(self) -> None:
        self.count = 0
        self._counted = float("-inf")
        self._changed = threading.Event()
        self._previous: dict[int, Any] = {}

    def note(self) -> None:
        """Count a request that came by another way."""
        now = time.monotonic()
        if now - self._counted > ONE_REQUEST_SECONDS:
            self.count += 1
            self._counted = now
        self._changed.set()

    def wait(self, seconds: float) -> bool:
        """Sleep so long, or until a request comes; returns whether there has been one."""
        return self.count > 0 or self._changed.wait(seconds)

    def __enter__(self) -> "StopRequests":
        for number in heeded():
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.note()

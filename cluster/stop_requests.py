"""Signals that ask a supervised job to stop: the first lets the ranks save and stop, a later one ends them at once."""

import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)  # SIGHUP: the terminal was closed
# Signals that arrive within this time of the first count as one request: terminals, shells and service managers signal
# a whole process group, and some of them do so twice.
ONE_REQUEST_SECONDS = 5.0


def heeded() -> list[signal.Signals]:
    """The signals to handle: all of SIGNALS, without SIGHUP if this process ignores it (as under `nohup`)."""
    return [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]


class StopRequests:
    """A context manager that counts the stop requests which arrive inside it."""

    def __init__(self) -> None:
        self.count = 0
        self._counted = float("-inf")
        self._changed = threading.Event()
        self._previous: dict[int, Any] = {}

    def note(self) -> None:
        """Count a request; for callers that handle the signals themselves."""
        now = time.monotonic()
        if now - self._counted > ONE_REQUEST_SECONDS:
            self.count += 1
            self._counted = now
        self._changed.set()

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until a request arrives; returns whether one has arrived."""
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

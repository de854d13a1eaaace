"""The event log, events.jsonl: the complete record of a run, append-only, one JSON object a line."""

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"


class EventLog:
    """Appends events; each line is flushed before the call returns."""

    def __init__(self, run: Path) -> None:
        path = run / EVENTS
        cut = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if cut:
            self._file.write("\n")  # a crash cut the last line short; the next event needs a line of its own

    def write(self, event: str, **values: Any) -> dict[str, Any]:
        """Append one event and return it. NaN and infinities are stored as null: they are not JSON."""
        record = {"event": event, "time": round(time.time(), 3), **_finite(values)}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        return record

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LogFollower:
    """A daemon thread that copies the event log to somewhere else, so that training never waits for it."""

    def __init__(self, name: str) -> None:
        """Start the thread, in which `_work` runs: call this last."""
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that the event log has grown; returns at once."""
        self._news.set()

    def _work(self) -> None:
        """Copy what is new after each wake, until `_closing` is set and all is copied."""
        raise NotImplementedError

    def _end(self, timeout: float) -> None:
        self._closing.set()
        self._news.set()
        self._thread.join(timeout)


def read_events(run: Path) -> list[dict[str, Any]]:
    """The run's events as if it had never been interrupted: without those that a resume took back.

    A line cut short by a crash is ignored. A `resume` at step k takes back the `step`, `evaluation` and `checkpoint`
    events of later steps that stand before it; a `start` takes back everything.
    """
    path = run / EVENTS
    events: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if event["event"] == "start":
            events = []  # the run started over, since nothing had been saved
        if event["event"] == "resume":
            events = [e for e in events if e.get("steps_done", 0) <= event["steps_done"]]
        events.append(event)
    return events


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

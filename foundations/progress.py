"""Progress of long work: one line that is updated on a terminal, a new line every few seconds elsewhere."""

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

_PLAIN_EVERY_SECONDS = 10.0


class Progress:
    """Counts bases, or bytes with `unit="B"`, and prints how many are done. A context manager.

    Args:
        label: text in front of the numbers.
        total: number of bases or bytes; 0 if it is not known.
        quiet: print nothing.
        stream: where to print; default: stderr.
    """

    def __init__(
        self, label: str, total: int, *, quiet: bool = False, unit: str = "bp", stream: TextIO | None = None
    ) -> None:
        self._label = label
        self._total = total
        self._unit = f"M{unit}"
        self._stream = stream or sys.stderr
        self._first = self._done = 0
        self._started = self._printed = time.monotonic()
        live = not quiet and self._stream.isatty()
        self._plain = not quiet and not live
        self._bar = tqdm(
            total=total, desc=label, unit=unit, unit_scale=True, disable=not live, file=self._stream, leave=False
        )

    def reset(self, done: int, total: int | None) -> None:
        """Start over, with `done` of `total` already done; None: the total is not known."""
        self._first, self._done, self._total = done, done, total or 0
        self._started = time.monotonic()
        self._bar.reset(total)
        self._bar.update(done)

    def add(self, count: int) -> None:
        """Count `count` more, and print a line if it is time for one."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._plain and (self._done == self._total or now - self._printed >= _PLAIN_EVERY_SECONDS):
            self._printed = now
            rate = (self._done - self._first) / max(now - self._started, 1e-9)
            left = max(self._total - self._done, 0) / max(rate, 1e-9)
            of = f" of {self._total / 1e6:,.1f}" if self._total else ""
            line = f"{self._label}: {self._done / 1e6:,.1f}{of} {self._unit}, {rate / 1e6:,.1f} {self._unit}/s"
            print(line + (f", {left:,.0f} s left" if left else ""), file=self._stream, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def progress_bar(total: int | None, title: str, unit: str, *, quiet: bool = False) -> "tqdm[Any]":
    """A tqdm bar on stderr. Call its `update(n)`, and close the bar or use it as a context manager."""
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=unit in ("bp", "base"),
        file=sys.stderr,
        dynamic_ncols=live,
        mininterval=0.2 if live else 15.0,
        disable=quiet,
        leave=True,
    )

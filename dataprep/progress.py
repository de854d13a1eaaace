"""How far a build is: one live line on a terminal, a plain line now and then anywhere else."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

_PLAIN_EVERY_SECONDS = 10.0


class Progress:
    """Counts bases; a context manager. `quiet` prints nothing."""

    def __init__(self, label: str, total: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._label = label
        self._total = total
        self._stream = stream or sys.stderr
        self._done = 0
        self._started = self._printed = time.monotonic()
        live = not quiet and self._stream.isatty()
        self._plain = not quiet and not live
        self._bar = tqdm(
            total=total, desc=label, unit="bp", unit_scale=True, disable=not live, file=self._stream, leave=False
        )

    def add(self, bases: int) -> None:
        self._done += bases
        self._bar.update(bases)
        now = time.monotonic()
        if self._plain and (self._done >= self._total or now - self._printed >= _PLAIN_EVERY_SECONDS):
            self._printed = now
            rate = self._done / max(now - self._started, 1e-9)
            left = (self._total - self._done) / max(rate, 1e-9)
            line = f"{self._label}: {self._done / 1e6:,.1f} of {self._total / 1e6:,.1f} Mbp, {rate / 1e6:,.1f} Mbp/s"
            print(line + (f", {left:,.0f} s left" if left else ""), file=self._stream, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

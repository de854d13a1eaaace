"""Progress of long work: one line that is updated on a terminal, a new line every few seconds elsewhere."""

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

_PLAIN_SECONDS = 10.0


class Progress(tqdm):
    """Counts what is done: call `update(n)`, and use it as a context manager.

    Args:
        title: text in front of the numbers.
        total: how many there will be; 0 or None if it is not known.
        unit: what is counted, such as `bp`, `B` or `step`.
        quiet: print nothing.
        stream: where to print; default: stderr.
    """

    def __init__(
        self, title: str, total: int | None, unit: str, *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        stream = stream or sys.stderr
        self._live = stream.isatty()
        self._printed = 0.0  # seconds since 1970 of the last plain line
        super().__init__(
            desc=title, total=total or None, unit=unit, unit_scale=unit in ("bp", "B", "base"), file=stream,
            dynamic_ncols=self._live, mininterval=0.2 if self._live else _PLAIN_SECONDS,
            delay=0 if self._live else _PLAIN_SECONDS, disable=quiet,
        )  # fmt: skip

    def restart(self, done: int, total: int | None) -> None:
        """Start over, with `done` of `total` already done; None: the total is not known."""
        if not self.disable:
            self.reset(total)
            self.total = total
            self.initial = self.n = self.last_print_n = done

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Print the state; tqdm calls this when it is time to, and at the end of work that took long enough."""
        if self._live:
            return super().display(msg, pos)
        if time.time() < max(self.start_t, self._printed) + _PLAIN_SECONDS:
            return False
        self._printed = time.time()
        left = " of {total_fmt}{unit}, {rate_fmt}{postfix}, {remaining} left"
        self.bar_format = "{desc}: {n_fmt}" + (left if self.total else "{unit}, {rate_fmt}{postfix}")
        print(self, file=self.fp, flush=True)
        return True

    def clear(self, nolock: bool = False) -> None:
        """Remove the line before others are printed; plain lines stay."""
        if self._live:
            super().clear(nolock)

    def close(self) -> None:
        """Print the last line of work that took long enough, and stop."""
        if not self._live and not self.disable:
            self._printed = 0.0
            self.display()
            self.sp = None  # tqdm then writes no line end of its own
        super().close()

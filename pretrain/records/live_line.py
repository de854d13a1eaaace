"""The live line: how far a run is, as one line on a terminal that is updated in place, or as plain lines elsewhere."""

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

_PLAIN_SECONDS = 15.0  # between plain lines, where stderr is no terminal


class LiveLine:
    """Steps, loss, speed, compression and time left."""

    def __init__(self, steps: int, steps_done: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._steps = steps
        self._began = self._last_line = time.monotonic()
        self._first = self._done = steps_done
        self._bar: tqdm[Any] | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=steps, initial=steps_done, file=self._stream, dynamic_ncols=True, desc="pretrain",
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar:20}| {postfix} [{elapsed}, {remaining} left]",
            )  # fmt: skip

    def step(self, event: dict[str, Any]) -> None:
        """Show one `step` event."""
        compression = "/".join(f"{value:.2f}" for value in event["compression"].values())
        loss = "not finite" if event["loss"] is None else f"{event['loss']:.4f}"
        text = f"loss {loss}, {event['bases_per_second']:,.0f} bases/s, compression {compression}"
        self._done = event["steps_done"]
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(self._done - self._bar.n)
        elif time.monotonic() - self._last_line >= _PLAIN_SECONDS or self._done in (self._first + 1, self._steps):
            self._last_line = time.monotonic()
            print(f"step {self._done}/{self._steps}: {text}, {self._left()} left", file=self._stream, flush=True)

    def say(self, line: str) -> None:
        """Print a line above the live one."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Stop updating; the last state stays on the terminal."""
        if self._bar is not None:
            self._bar.close()

    def _left(self) -> str:
        pace = (time.monotonic() - self._began) / max(1, self._done - self._first)
        return tqdm.format_interval(pace * (self._steps - self._done))

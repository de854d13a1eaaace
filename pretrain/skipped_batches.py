"""Batches a run leaves out after a loss spike, and what that does to the sample order."""

import json
from pathlib import Path
from typing import Protocol

from failures import BadInput

from .sample_order import Windows

_NAME = "skipped_batches.json"


class Order(Protocol):
    """The part of `SampleOrder` that drawing data needs."""

    def windows(self, samples: range) -> Windows:
        """The windows of the given sample numbers."""


class SkippedBatches:
    """Numbers of left-out batches, kept in the run folder: a later roll-back must leave out the earlier ones too.

    Raises:
        BadInput: the file is not readable.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / _NAME
        try:
            self.numbers: list[int] = sorted(json.loads(self._path.read_text())) if self._path.exists() else []
        except ValueError as error:
            raise BadInput(
                f"{self._path}: not readable ({error}); restore it, or remove it to leave no batch out"
            ) from error

    def batch_of(self, step: int) -> int:
        """Number of the batch that optimizer step `step` (0-based) takes."""
        batch = step
        for number in self.numbers:
            batch += number <= batch
        return batch

    def add(self, batch: int) -> None:
        """Leave one more batch out, from now on and after every resume."""
        self.numbers = sorted({*self.numbers, batch})
        partial = self._path.with_name(f".{_NAME}.partial")
        partial.write_text(json.dumps(self.numbers) + "\n")
        partial.replace(self._path)


class SkippingOrder:
    """A sample order without the left-out batches: step s takes the s-th batch that is left."""

    def __init__(self, order: Order, skipped: SkippedBatches, *, global_batch: int) -> None:
        self._order, self._skipped, self._global_batch = order, skipped, global_batch

    def windows(self, samples: range) -> Windows:
        """The windows of sample numbers that all belong to one step."""
        step = samples.start // self._global_batch
        shift = (self._skipped.batch_of(step) - step) * self._global_batch
        return self._order.windows(range(samples.start + shift, samples.stop + shift, samples.step))

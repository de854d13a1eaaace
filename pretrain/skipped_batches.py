"""Batches a run leaves out after a loss spike, and which batch each step takes then."""

import json
from pathlib import Path

from dnachunker.foundations.failures import BadInput

_NAME = "skipped_batches.json"


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

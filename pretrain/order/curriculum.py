"""Which windows each optimizer step takes. Window length and global batch may change from phase to phase.

Each phase starts a new pass over the corpus in a sample order of its own, so within a phase every base is seen once an
epoch. Batch s is the batch of step s in a run that leaves no batch out. A run that leaves batches out (see
`SkippedBatches`) takes at step s the s-th of the other batches.
"""

import bisect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnachunker.foundations.atomic_files import write_json
from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import DataSettings

from .counter_random import hash_counters
from .mixing import Mixture
from .sample_order import Int64Array, SampleOrder, Windows

_SKIPPED = "skipped_batches.json"  # in the run folder


@dataclass(frozen=True)
class Phase:
    """Batches from `first_batch` on, until the next phase begins."""

    first_batch: int
    seq_len: int  # bases in a window
    global_batch: int  # windows in an optimizer step, over all ranks
    order: SampleOrder


class Curriculum:
    """The phases of a run, in order; without `data.curriculum` there is one."""

    def __init__(self, phases: Sequence[Phase], batch_of: Callable[[int], int] = int) -> None:
        """
        Args:
            batch_of: gives the batch that an optimizer step takes; strictly increasing.
        """
        self._phases = list(phases)
        self._first_batches = [phase.first_batch for phase in phases]
        self._batch_of = batch_of

    @classmethod
    def of(
        cls,
        settings: DataSettings,
        block_bases: Int64Array,
        mixture: Mixture,
        *,
        seed: int,
        batch_of: Callable[[int], int] = int,
    ) -> "Curriculum":
        """The curriculum of a config."""
        phases = [
            Phase(
                spec.from_step,
                spec.seq_len,
                spec.global_batch,
                SampleOrder(
                    block_bases,
                    seed=seed if number == 0 else int(hash_counters(seed, number)),
                    seq_len=spec.seq_len,
                    streams=settings.streams,
                    shuffle_blocks=settings.shuffle_blocks,
                    mixture=mixture,
                    reverse_complement=settings.reverse_complement,
                ),
            )
            for number, spec in enumerate(settings.phases)
        ]
        return cls(phases, batch_of)

    def phase(self, step: int) -> Phase:
        """The phase of optimizer step `step` (0-based)."""
        return self._phases[bisect.bisect_right(self._first_batches, self._batch_of(step)) - 1]

    def steps_together(self, step: int, most: int) -> range:
        """At most `most` steps from `step` on, all in one phase."""
        phase, end = self.phase(step), step + 1
        while end < step + most and self.phase(end) is phase:
            end += 1
        return range(step, end)

    def windows(self, steps: range, *, rank: int, world_size: int) -> Windows:
        """The windows of one rank in some steps of one phase, in order: the samples n with n mod world_size = rank."""
        phase = self.phase(steps.start)
        batches = np.array([self._batch_of(step) for step in steps]) - phase.first_batch
        samples = batches[:, None] * phase.global_batch + np.arange(rank, phase.global_batch, world_size)
        return phase.order.windows(samples.ravel())

    def samples_before(self, step: int) -> int:
        """Number of windows of all ranks before `step`, left-out batches included."""
        batch = self._batch_of(step)
        ends = [*self._first_batches[1:], batch]
        return sum(
            max(0, min(batch, end) - phase.first_batch) * phase.global_batch
            for phase, end in zip(self._phases, ends, strict=True)
        )


class SkippedBatches:
    """The numbers of the batches that a run leaves out, kept in the run folder, so that every resume leaves them out.

    Raises:
        BadInput: the file is not readable.
    """

    def __init__(self, run: Path, of_checkpoint: Sequence[int] = ()) -> None:
        """
        Args:
            of_checkpoint: those that the checkpoint names from which the run goes on; it may come from another folder.
        """
        self._path = run / _SKIPPED
        try:
            stored = json.loads(self._path.read_text()) if self._path.exists() else []
            self.numbers: list[int] = sorted({*stored, *of_checkpoint})
        except (ValueError, TypeError) as error:
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
        write_json(self._path, self.numbers)

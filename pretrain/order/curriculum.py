"""Which windows each optimizer step takes, when window length and global batch may change on the way.

A change of window length starts a new pass over the corpus under an order of its own: within a stage every base is
seen once an epoch. Batches are numbered as an undisturbed run takes them, one a step; a run that leaves batches out
(see `SkippedBatches`) takes at step s the s-th that is left.
"""

import bisect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import DataSettings

from .counter_random import hash_counters
from .mixing import Mixture
from .sample_order import Int64Array, SampleOrder, Windows

_SKIPPED = "skipped_batches.json"  # in the run folder


@dataclass(frozen=True)
class Stage:
    """Batches from `first_batch` on, until the next stage begins."""

    first_batch: int
    seq_len: int  # bases in a window
    global_batch: int  # windows in an optimizer step, over all ranks
    order: SampleOrder


class Curriculum:
    """The stages of a run, in order; a run without a schedule has one."""

    def __init__(self, stages: Sequence[Stage], batch_of: Callable[[int], int] = int) -> None:
        """
        Args:
            batch_of: the batch that an optimizer step takes; grows with the step.
        """
        self._stages = list(stages)
        self._first_batches = [stage.first_batch for stage in stages]
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
        """The stages a config asks for."""
        stages = [
            Stage(
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
            for number, spec in enumerate(settings.stages)
        ]
        return cls(stages, batch_of)

    def stage(self, step: int) -> Stage:
        """The stage of optimizer step `step` (0-based)."""
        return self._stages[bisect.bisect_right(self._first_batches, self._batch_of(step)) - 1]

    def steps_together(self, step: int, most: int) -> range:
        """At most `most` steps from `step` on, of one stage."""
        stage, end = self.stage(step), step + 1
        while end < step + most and self.stage(end) is stage:
            end += 1
        return range(step, end)

    def windows(self, steps: range, *, rank: int, world_size: int) -> Windows:
        """What one rank takes in some steps of one stage, step after step: the samples n with n mod W = rank."""
        stage = self.stage(steps.start)
        batches = np.array([self._batch_of(step) for step in steps]) - stage.first_batch
        samples = batches[:, None] * stage.global_batch + np.arange(rank, stage.global_batch, world_size)
        return stage.order.windows(samples.ravel())

    def samples_before(self, step: int) -> int:
        """Windows of all ranks before those of `step`, left-out batches included."""
        batch = self._batch_of(step)
        ends = [*self._first_batches[1:], batch]
        return sum(
            max(0, min(batch, end) - stage.first_batch) * stage.global_batch
            for stage, end in zip(self._stages, ends, strict=True)
        )


class SkippedBatches:
    """Numbers of left-out batches, kept in the run folder: a later roll-back must leave out the earlier ones too.

    Raises:
        BadInput: the file is not readable.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / _SKIPPED
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
        partial = self._path.with_name(f".{_SKIPPED}.partial")
        partial.write_text(json.dumps(self.numbers) + "\n")
        partial.replace(self._path)

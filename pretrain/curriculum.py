"""Which windows each optimizer step takes, when window length and global batch may change on the way.

A change of window length starts a new pass over the corpus under an order of its own: within a stage every base is
seen once an epoch, and which step belongs to which stage is a matter of its number alone.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from .config import DataSettings
from .counter_random import hash_counters
from .mixing import Mixture
from .sample_order import Int64Array, SampleOrder, Windows


@dataclass(frozen=True)
class Stage:
    """Steps from `first_step` on, until the next stage begins."""

    first_step: int
    seq_len: int  # bases in a window
    global_batch: int  # windows in an optimizer step, over all ranks
    order: SampleOrder


class Curriculum:
    """The stages of a run, in order; a run without a schedule has one."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = list(stages)
        self._first_steps = [stage.first_step for stage in stages]

    @classmethod
    def of(cls, settings: DataSettings, block_bases: Int64Array, mixture: Mixture, *, seed: int) -> "Curriculum":
        """The stages a config asks for."""
        return cls(
            [
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
        )

    def stage(self, step: int) -> Stage:
        """The stage of step `step` (0-based)."""
        return self._stages[bisect.bisect_right(self._first_steps, step) - 1]

    def steps_together(self, step: int, most: int) -> range:
        """At most `most` steps from `step` on, of one stage."""
        later = [first for first in self._first_steps if first > step]
        return range(step, min([step + most, *later]))

    def windows(self, steps: range, *, rank: int, world_size: int) -> Windows:
        """What one rank takes in some steps of one stage, step after step: the samples n with n mod W = rank."""
        stage = self.stage(steps.start)
        first, end = ((step - stage.first_step) * stage.global_batch for step in (steps.start, steps.stop))
        return stage.order.windows(range(first + rank, end, world_size))

    def samples_before(self, step: int) -> int:
        """Windows all ranks have seen when `step` begins."""
        borders = [*self._first_steps, step]
        return sum(
            max(0, min(step, following) - stage.first_step) * stage.global_batch
            for stage, following in zip(self._stages, borders[1:], strict=True)
        )

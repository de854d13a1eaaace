"""Chooses the capacity of chunk buffers from recent steps, so that the host does not wait until chunks are counted.

Capacity changes only the filler in a buffer. If a batch has more chunks than the capacity, its loss is NaN and no rank
applies the step. In the steps after it, as in the first steps of a run, chunks are counted.
"""

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

_STEPS = 32  # recent steps that the choice uses
_FEWEST = 8  # steps counted before the first choice
_HEADROOM = 1.05  # factor; the largest rise from one recent step to the next is added
_BUCKETS = 64  # capacities are multiples of 1/64: few shapes, for allocators and code compiled or captured for a shape


class ChunkCapacity:
    """Chooses before each step, from values that are the same on every rank; its state is part of a checkpoint."""

    def __init__(self, *, foresee: bool, shares: Sequence[Sequence[float]] = ()) -> None:
        """
        Args:
            foresee: choose a capacity; if false, chunks are always counted.
            shares: `state()` of the run that is resumed.
        """
        self._foresee = foresee
        self._shares: deque[tuple[float, ...]] = deque((tuple(share) for share in shares), maxlen=_STEPS)

    @property
    def per_base(self) -> list[float] | None:
        """Per stage, the capacity of the next step's buffers in chunks per base; None to count chunks."""
        if not self._foresee or len(self._shares) < _FEWEST:
            return None
        wanted = []
        for stage in zip(*self._shares, strict=True):
            rise = max(later - earlier for earlier, later in pairwise(stage))
            wanted.append(_HEADROOM * max(stage) + max(rise, 0.0))
        return [min(1.0, math.ceil(share * _BUCKETS) / _BUCKETS) for share in wanted]

    def learn(self, needed: Sequence[float]) -> bool:
        """Record a step's chunks per base, by stage, in the fullest micro-batch of all ranks.

        Returns:
            Whether the buffers were full, so that chunks may have been lost.
        """
        capacity = self.per_base
        full = capacity is not None and any(n >= c for n, c in zip(needed, capacity, strict=True) if c < 1)
        if full:
            self._shares.clear()  # the count stops at the capacity, so the chunks needed are unknown
        else:
            self._shares.append(tuple(needed))
        return full

    def state(self) -> tuple[tuple[float, ...], ...]:
        """What a checkpoint stores, and `__init__` takes as `shares`."""
        return tuple(self._shares)

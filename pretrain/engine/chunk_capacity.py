"""Places for chunks chosen from what recent steps needed, so that nobody waits for the device to count them.

Only filler depends on how many places there are. A batch with more chunks than places has the loss NaN, which the
guards keep from every rank's weights; the steps after it count their chunks, and so do the first ones.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig

_STEPS = 32  # looked back on
_FEWEST = 8  # steps counted before any is foreseen
_HEADROOM = 1.05  # beside the largest rise from one recent step to the next
_BUCKETS = 64  # per base: few different shapes, for allocators and whatever is compiled or captured for a shape


class ChunkPlaces:
    """Decides before each step, from values that are the same on every rank; its state is part of a checkpoint."""

    def __init__(self, network: DNAChunkerConfig, *, foresee: bool, shares: Sequence[Sequence[float]] = ()) -> None:
        """
        Args:
            network: of the model that trains; its `chunk_capacity` is set while `applied`.
            foresee: otherwise chunks are always counted.
            shares: what `state` said.
        """
        self._network = network
        self._foresee = foresee
        self._shares: deque[tuple[float, ...]] = deque((tuple(share) for share in shares), maxlen=_STEPS)

    @property
    def places(self) -> list[float] | None:
        """Per stage, places per base in the coming step; None to count."""
        if not self._foresee or len(self._shares) < _FEWEST:
            return None
        wanted = []
        for stage in zip(*self._shares, strict=True):
            rise = max(later - earlier for earlier, later in pairwise(stage))
            wanted.append(_HEADROOM * max(stage) + max(rise, 0.0))
        return [min(1.0, math.ceil(share * _BUCKETS) / _BUCKETS) for share in wanted]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While entered, the model makes so many places; other passes, such as evaluation, count."""
        self._network.chunk_capacity = self.places
        try:
            yield
        finally:
            self._network.chunk_capacity = None

    def learn(self, needed: Sequence[float]) -> bool:
        """Note a step's chunks per base, by stage, in the fullest micro-batch of all ranks.

        Returns:
            Whether its places were full, so that chunks may have been lost.
        """
        places = self.places
        full = places is not None and any(n >= p for n, p in zip(needed, places, strict=True) if p < 1)
        if full:
            self._shares.clear()  # counted up to the places only: it says too little of what is needed
        else:
            self._shares.append(tuple(needed))
        return full

    def state(self) -> tuple[tuple[float, ...], ...]:
        """What `__init__` takes back."""
        return tuple(self._shares)

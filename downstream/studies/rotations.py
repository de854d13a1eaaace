"""Random rotations of token starts within their regions: the null distribution of studies of annotated intervals.

A rotation keeps the lengths of tokens, and what neighbouring tokens have in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .loops import count_inside

Intervals = NDArray[np.int64]  # (n, 2) of a region: first base, and the base after the last


def draw_shifts(lengths: Sequence[int], permutations: int, seed: int) -> NDArray[np.int64]:
    """(1 + permutations, regions): by how many bases each region is rotated; the first row is 0, no rotation."""
    rng = np.random.default_rng(seed)
    shifts = rng.integers(1, np.maximum(2, lengths), (permutations, len(lengths)))
    return np.concatenate([np.zeros((1, len(lengths)), np.int64), shifts])


@dataclass(frozen=True)
class Rotated:
    """The token starts of a segmentation under rotations.

    Attributes:
        sums: of each region (L + 1,) int32, the number of starts before each base.
        shifts: as `draw_shifts` gives them.
    """

    sums: list[NDArray[np.int32]]
    shifts: NDArray[np.int64]

    @classmethod
    def of(cls, starts: Sequence[NDArray[np.bool_]], shifts: NDArray[np.int64]) -> "Rotated":
        """From (L,) bool of each region: where a token starts."""
        sums = [np.zeros(len(part) + 1, np.int32) for part in starts]
        for part, into in zip(starts, sums, strict=True):
            np.cumsum(part, dtype=np.int32, out=into[1:])
        return cls(sums, shifts)

    def inside(self, intervals: Sequence[Intervals]) -> NDArray[np.int64]:
        """(1 + permutations,): token starts in the intervals of all regions after each rotation, summed.

        An interval may not reach beyond its region.
        """
        counts = np.zeros(len(self.shifts), np.int64)
        for sums, part, shifts in zip(self.sums, intervals, self.shifts.T, strict=True):
            order = np.argsort(shifts)
            counts[order] += count_inside(sums, part, shifts[order])
        return counts


def two_sided_p(observed: float, null: NDArray[np.float64]) -> float:
    """Share of rotations, the observed one included, that are as far from the mean rotation as `observed` is."""
    center = null.mean()
    as_far = int((np.abs(null - center) >= abs(observed - center) - 1e-12).sum())
    return (1 + as_far) / (1 + len(null))

"""The loops of studies over bases and rotations, compiled by numba."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def count_inside(sums: NDArray[np.int32], intervals: NDArray[np.int64], shifts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of starts in all intervals after each rotation, (rotations,).

    The starts in an interval after a rotation are those in another interval before it.

    Args:
        sums: (L + 1,), the number of starts before each base.
        intervals: (n, 2), first base and the base after the last; none longer than L.
        shifts: (rotations,), bases from 0 to L, ascending, so that memory is read in sequence.
    """
    length = len(sums) - 1
    counts = np.zeros(len(shifts), np.int64)
    for number in range(len(intervals)):
        width = intervals[number, 1] - intervals[number, 0]
        for rotation in range(len(shifts)):
            low = intervals[number, 0] - shifts[rotation]
            if low < 0:
                low += length
            high = low + width
            if high <= length:
                counts[rotation] += sums[high] - sums[low]
            else:  # the interval reaches over the end, and goes on at the start
                counts[rotation] += sums[length] - sums[low] + sums[high - length]
    return counts


@_compiled
def mark_hits(
    codes: NDArray[np.uint8],
    scores: NDArray[np.int64],
    order: NDArray[np.int64],
    least: int,
    hits: NDArray[np.bool_],
) -> None:
    """Mark the starts of windows that score at least `least`; a window is left as soon as it cannot.

    Args:
        codes: (L,), A 0, C 1, G 2, T 3, and 4 for a base that no window may hold.
        scores: (4, width), by base and position.
        order: of positions; telling ones first make it fast.
        hits: (L,), is changed.
    """
    width = len(order)
    best = 0
    for position in order:
        best += scores[:, position].max()
    rest = np.empty((5, width), np.int64)  # by how much each base falls short of the best one
    for number in range(width):
        highest = scores[:, order[number]].max()
        for code in range(4):
            rest[code, number] = highest - scores[code, order[number]]
        rest[4, number] = best - least + 1
    for start in range(len(codes) - width + 1):
        left = best - least
        for number in range(width):
            left -= rest[codes[start + order[number]], number]
            if left < 0:
                break
        if left >= 0:
            hits[start] = True

"""Shuffling without a list: a keyed bijection of [0, n) that maps one index at a time, in any order.

A balanced Feistel network permutes the smallest even number of bits that covers n; indices that leave [0, n) are
sent through again until they return (cycle walking, Black and Rogaway, CT-RSA 2002).
"""

import numba
import numpy as np
import numpy.typing as npt

from .counter_random import absorb

_ROUNDS = 4

Int64Array = npt.NDArray[np.int64]


@numba.vectorize(["int64(int64, int64, uint64)"], cache=True)
def permute(index, size, key):  # type: ignore[no-untyped-def]  # a numpy ufunc after decoration
    """Where an index goes under the permutation of [0, size) that a key names; a ufunc, so it broadcasts.

    Args:
        index: int64, 0 <= index < size.
        size: int64, at least 1 and below 2**62.
        key: uint64; equal keys and sizes name the same permutation.

    Returns:
        int64 in [0, size); distinct for distinct indices of one key and size.
    """
    half_bits = np.uint64(1)
    while np.uint64(1) << (np.uint64(2) * half_bits) < np.uint64(size):
        half_bits += np.uint64(1)
    low_mask = (np.uint64(1) << half_bits) - np.uint64(1)
    start = absorb(np.uint64(0), key)
    value = np.uint64(index)
    while True:
        left, right = value >> half_bits, value & low_mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (absorb(absorb(start, np.uint64(number)), right) & low_mask)
        value = (left << half_bits) | right
        if value < np.uint64(size):
            return np.int64(value)

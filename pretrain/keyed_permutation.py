"""Shuffling without a list: a keyed bijection of [0, n) that maps one index at a time, in any order.

A balanced Feistel network permutes the smallest even number of bits that covers n; indices that leave [0, n) are
sent through again until they return (cycle walking, Black and Rogaway, CT-RSA 2002). Vectorised over indices that
each have their own key and size, so that a batch drawn from many shuffled groups costs a few array operations.
"""

import numpy as np
import numpy.typing as npt

from .counter_random import UInt64Array, hash_counters

_ROUNDS = 4

Int64Array = npt.NDArray[np.int64]


def permute(indices: Int64Array, sizes: Int64Array, keys: UInt64Array) -> Int64Array:
    """Where each index goes under the permutation of [0, size) that its key names.

    Args:
        indices: (n,) int64, 0 <= index < size.
        sizes: (n,) int64, at least 1 and below 2**62.
        keys: (n,) uint64; equal keys and sizes name the same permutation.

    Returns:
        (n,) int64 in [0, size); distinct for distinct indices of one key and size.
    """
    half_bits = np.maximum(1, (_bit_length(sizes - 1) + 1) // 2).astype(np.uint64)
    result = indices.astype(np.uint64)
    walking = np.arange(len(result))
    while len(walking):
        result[walking] = _feistel(result[walking], half_bits[walking], keys[walking])
        walking = walking[result[walking] >= sizes[walking].astype(np.uint64)]
    return result.astype(np.int64)


def _feistel(values: UInt64Array, half_bits: UInt64Array, keys: UInt64Array) -> UInt64Array:
    low_mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & low_mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (hash_counters(keys, number, right) & low_mask)
    return (left << half_bits) | right


def _bit_length(values: Int64Array) -> Int64Array:
    return np.where(values > 0, np.frexp(values.astype(np.float64))[1], 0)

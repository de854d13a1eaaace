"""Randomness as a pure function of counters: the same key gives the same bits on any machine, rank or resume.

The sample order uses 64-bit words on the host: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) and a
keyed permutation built from this finaliser, which shuffles without storing a list. Corruption needs one word for every
base and uses 32 bits: the word decides whether and how the base is replaced.
"""

import numba
import numpy as np
import numpy.typing as npt
import torch

GOLDEN_32 = 0x9E3779B9
ROUNDS_32 = (0x7FEB352D, 0x846CA68B)
_WORD = 0xFFFFFFFF
_FEISTEL_ROUNDS = 4

UInt64Array = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]


@numba.vectorize(["uint64(uint64, uint64)"], cache=True)
def absorb(state, word):  # type: ignore[no-untyped-def]  # a numpy ufunc after decoration
    """The hash state after one more 64-bit counter."""
    state = state + (word + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def hash_counters(*counters: int | npt.NDArray[np.integer]) -> UInt64Array:
    """64 random bits for each tuple of counters; arrays broadcast against each other.

    Args:
        counters: non-negative integers or integer arrays, most general first (seed, epoch, block, ...).

    Returns:
        uint64 array of the broadcast shape (0-d for integers only).
    """
    state: UInt64Array = np.zeros((), np.uint64)
    for counter in counters:
        state = absorb(state, np.asarray(counter).astype(np.uint64))
    return np.asarray(state)


def hash_positions(keys: torch.Tensor, length: int) -> torch.Tensor:
    """`hash_at` for positions 0 to L-1 of every window. keys (B,) int64 -> (B, L) int64 in [0, 2**32)."""
    return hash_at(keys, torch.arange(length, dtype=torch.int64, device=keys.device)[None, :])


def hash_at(keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """32 random bits for some positions of every window, on the device of `keys`.

    The finaliser lowbias32 (Wellons, "Prospecting for hash functions", 2018) is applied to
    (low half of the key + (position + 1) * golden ratio) XOR high half of the key. `masking_loops` has the same
    function compiled; a test compares the two.

    Args:
        keys: (B,) int64, the bits of a uint64 key for each window.
        positions: (B, L) or (1, L) int64, at least -1.

    Returns:
        (B, L) int64 in [0, 2**32).
    """
    low, high = keys[:, None] & _WORD, (keys[:, None] >> 32) & _WORD
    bits = ((low + (positions + 1) * GOLDEN_32) & _WORD) ^ high
    first, second = ROUNDS_32
    # int64 holds the product's low 32 bits whatever overflows above them
    bits = ((bits ^ (bits >> 16)) * first) & _WORD
    bits = ((bits ^ (bits >> 15)) * second) & _WORD
    return bits ^ (bits >> 16)


@numba.vectorize(["int64(int64, int64, uint64)"], cache=True)
def permute(index, size, key):  # type: ignore[no-untyped-def]  # a numpy ufunc after decoration
    """The image of an index under the permutation of [0, size) that a key selects; a ufunc, so it broadcasts.

    A balanced Feistel network permutes the smallest even number of bits that covers `size`. A result outside
    [0, size) goes through the network again until it falls inside (cycle walking, Black and Rogaway, CT-RSA 2002).

    Args:
        index: int64, 0 <= index < size.
        size: int64, at least 1 and below 2**62.
        key: uint64; equal keys and sizes select the same permutation.

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
        for number in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (absorb(absorb(start, np.uint64(number)), right) & low_mask)
        value = (left << half_bits) | right
        if value < np.uint64(size):
            return np.int64(value)

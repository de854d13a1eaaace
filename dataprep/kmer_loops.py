"""The loops over every 31-mer of a genome, compiled by numba, several bases at once."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_BITS = np.uint64(2**62 - 1)  # of a 31-mer
_SCRAMBLE = np.uint16(0x9E37)
_PAD = 8  # bytes read past the last base

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def choose_kmers(
    bases: NDArray[np.uint8], length: int, threshold: int, starts: NDArray[np.int64], kmers: NDArray[np.uint64]
) -> int:
    """The 31-mers whose middle 15 letters have a hash below `threshold` (of 2**16), on either strand alike.

    The middle is two 8-mers that share a letter. The hash is of the sum of the older one and the newer one's reverse
    complement: on the other strand these two have changed places.

    Args:
        bases: 2 bits each, of `length` bases.
        threshold: 1 to 2**16.
        starts, kmers: at least as long as there are 31-mers; overwritten with the places of those chosen and with
            the smaller of each and its reverse complement.

    Returns:
        How many were chosen.
    """
    forward = np.zeros(bases.size + _PAD + 1, np.uint8)
    forward[: bases.size] = bases
    lowest = np.empty(bases.size, np.uint16)
    _lowest_hashes(forward, lowest)
    largest = np.uint16(threshold - 1)
    count = 0
    candidates, found = np.empty(bases.size, np.int64), 0
    for i in range(bases.size):  # without a branch that nobody can predict
        candidates[found] = i
        found += lowest[i] <= largest
    for i in candidates[:found]:
        word = np.uint64(0)
        for j in range(8):
            word = word << np.uint64(8) | np.uint64(forward[i + j])
        after = np.uint64(forward[i + 8])
        for phase in range(min(4, length - 30 - 4 * i)):  # of the k-mer's first base in its byte
            if phase < 2:
                kmer = word >> np.uint64(2 - 2 * phase) & _BITS
            else:
                kmer = (word << np.uint64(2 * phase - 2) | after >> np.uint64(10 - 2 * phase)) & _BITS
            older, newer = np.uint16(kmer >> np.uint64(30)), np.uint16(kmer >> np.uint64(16))
            if np.uint16((older + _reverse_8(newer)) * _SCRAMBLE) <= largest:
                starts[count] = 4 * i + phase
                kmers[count] = min(kmer, _reverse_31(kmer))
                count += 1
    return count


@_compiled
def _lowest_hashes(bases: NDArray[np.uint8], lowest: NDArray[np.uint16]) -> None:
    """For each byte the lowest hash of the middles of the four 31-mers that start in it."""
    pairs = np.empty(lowest.size + _PAD, np.uint16)  # the eight bases of a byte and the next
    reverse = np.empty(lowest.size + _PAD, np.uint16)  # their reverse complement
    for i in range(pairs.size):
        pairs[i] = np.uint16(bases[i]) << np.uint16(8) | np.uint16(bases[i + 1])
    for i in range(pairs.size):
        reverse[i] = _reverse_8(pairs[i])
    for i in range(lowest.size):
        # of the k-mer that starts at the byte's first base, the older 8-mer is two bytes on, the newer 15 bases
        older, next_older = pairs[i + 2], pairs[i + 3] & np.uint16(0xFF)
        newer = reverse[i + 4]
        after, last = reverse[i + 4] >> np.uint16(8), reverse[i + 5] >> np.uint16(8)
        before = reverse[i + 3]
        first = np.uint16((older + (before >> np.uint16(6) | after << np.uint16(10))) * _SCRAMBLE)
        second = np.uint16(((older << np.uint16(2) | next_older >> np.uint16(6)) + newer) * _SCRAMBLE)
        third = np.uint16(
            ((older << np.uint16(4) | next_older >> np.uint16(4)) + (newer >> np.uint16(2) | last << np.uint16(14)))
            * _SCRAMBLE
        )
        fourth = np.uint16(
            ((older << np.uint16(6) | next_older >> np.uint16(2)) + (newer >> np.uint16(4) | last << np.uint16(12)))
            * _SCRAMBLE
        )
        lowest[i] = min(min(first, second), min(third, fourth))


@_compiled
def _reverse_8(kmer: np.uint16) -> np.uint16:
    """The reverse complement of an 8-mer: pairs of bits swapped over ever shorter distances, all inverted."""
    kmer = ~kmer
    kmer = kmer >> np.uint16(8) | kmer << np.uint16(8)
    kmer = kmer >> np.uint16(4) & np.uint16(0x0F0F) | (kmer & np.uint16(0x0F0F)) << np.uint16(4)
    return kmer >> np.uint16(2) & np.uint16(0x3333) | (kmer & np.uint16(0x3333)) << np.uint16(2)


@_compiled
def _reverse_31(kmer: np.uint64) -> np.uint64:
    """The reverse complement of a 31-mer, in the same way."""
    for step, mask in ((2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F), (8, 0x00FF00FF00FF00FF)):
        kmer = kmer >> np.uint64(step) & np.uint64(mask) | (kmer & np.uint64(mask)) << np.uint64(step)
    low = np.uint64(0x0000FFFF0000FFFF)
    kmer = kmer >> np.uint64(16) & low | (kmer & low) << np.uint64(16)
    return ~(kmer >> np.uint64(32) | kmer << np.uint64(32)) >> np.uint64(2)

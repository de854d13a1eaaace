"""The loops over every 31-mer of a genome, compiled by numba; they handle several bases at once."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_BITS = np.uint64(2**62 - 1)  # mask of the 62 bits of a 31-mer
_SCRAMBLE = np.uint16(0x9E37)
_MIX, _MIX_AGAIN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_PIECE = 2**16  # bytes handled at a time, so that they stay in the second-level cache
_PAD = 8  # bytes read past the last base

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def sample_kmers(
    bases: NDArray[np.uint8],
    length: int,
    n_runs: NDArray[np.uint32],
    first: int,
    second: np.uint64,
    kmers: NDArray[np.uint64],
) -> tuple[int, np.uint64]:
    """Sample the 31-mers without N whose two hashes are low enough; both hashes are the same on either strand.

    The first hash covers the middle 15 letters, which are two 8-mers with one letter in common. It is a hash of the
    sum of the older 8-mer and the reverse complement of the newer 8-mer; on the other strand these two terms change
    places, so the sum stays the same. One call handles a whole block, because every return to Python makes threads
    wait for each other.

    Args:
        bases: (ceil(length / 4),) uint8, 2 bits a base.
        n_runs: (k, 2) start,end of the runs of N, in order.
        first: 1 to 2**16; a k-mer passes if its first hash is below it.
        second: a k-mer passes if the hash of the whole k-mer is at most this.
        kmers: at least as long as the number of 31-mers; its start is overwritten with the sampled k-mers, each as the
            smaller of the k-mer and its reverse complement.

    Returns:
        Number of sampled k-mers, and the sum of the second hashes of all k-mers that passed the first hash.
    """
    forward = np.empty(_PIECE + _PAD + 1, np.uint8)
    pairs, reverse = np.empty(_PIECE + _PAD, np.uint16), np.empty(_PIECE + _PAD, np.uint16)
    lowest, candidates = np.empty(_PIECE, np.uint16), np.empty(_PIECE, np.int64)
    largest = np.uint16(first - 1)
    count, fingerprint, run = 0, np.uint64(0), 0
    for begin in range(0, bases.size, _PIECE):
        there = min(bases.size - begin, forward.size)
        forward[:there] = bases[begin : begin + there]
        forward[there:] = 0
        size = min(bases.size - begin, _PIECE)
        _lowest_hashes(forward, pairs, reverse, lowest)
        found = 0
        for i in range(size):  # without a branch: the processor could not predict it
            candidates[found] = i
            found += lowest[i] <= largest
        for i in candidates[:found]:
            word = np.uint64(0)
            for j in range(8):
                word = word << np.uint64(8) | np.uint64(forward[i + j])
            after = np.uint64(forward[i + 8])
            place = 4 * (begin + i)
            for shift in range(min(4, length - 30 - place)):  # position of the k-mer's first base in its byte
                if shift < 2:
                    kmer = word >> np.uint64(2 - 2 * shift) & _BITS
                else:
                    kmer = (word << np.uint64(2 * shift - 2) | after >> np.uint64(10 - 2 * shift)) & _BITS
                older, newer = np.uint16(kmer >> np.uint64(30)), np.uint16(kmer >> np.uint64(16))
                if np.uint16((older + _reverse_8(newer)) * _SCRAMBLE) > largest:
                    continue
                while run < len(n_runs) and n_runs[run, 1] <= place + shift:
                    run += 1
                if run < len(n_runs) and n_runs[run, 0] < place + shift + 31:
                    continue
                kmer = min(kmer, _reverse_31(kmer))
                mixed = (kmer ^ kmer >> np.uint64(29)) * _MIX
                mixed = (mixed ^ mixed >> np.uint64(32)) * _MIX_AGAIN
                fingerprint += mixed
                kmers[count] = kmer
                count += int(mixed <= second)
    return count, fingerprint


@_compiled
def _lowest_hashes(
    bases: NDArray[np.uint8], pairs: NDArray[np.uint16], reverse: NDArray[np.uint16], lowest: NDArray[np.uint16]
) -> None:
    """Write for each byte the lowest first hash of the four 31-mers that start in the byte.

    Args:
        pairs: overwritten with the eight bases of each byte and the next byte.
        reverse: overwritten with the reverse complements of `pairs`.
        lowest: overwritten with the lowest hashes.
    """
    for i in range(pairs.size):
        pairs[i] = np.uint16(bases[i]) << np.uint16(8) | np.uint16(bases[i + 1])
    for i in range(pairs.size):
        reverse[i] = _reverse_8(pairs[i])
    for i in range(lowest.size):
        # the k-mer that starts at the byte's first base: its older 8-mer starts 8 bases later, its newer one 15 bases
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
    """The reverse complement of an 8-mer: inverts all bits, then swaps halves, quarters and pairs of bits."""
    kmer = ~kmer
    kmer = kmer >> np.uint16(8) | kmer << np.uint16(8)
    kmer = kmer >> np.uint16(4) & np.uint16(0x0F0F) | (kmer & np.uint16(0x0F0F)) << np.uint16(4)
    return kmer >> np.uint16(2) & np.uint16(0x3333) | (kmer & np.uint16(0x3333)) << np.uint16(2)


@_compiled
def _reverse_31(kmer: np.uint64) -> np.uint64:
    """The reverse complement of a 31-mer, by swaps as in `_reverse_8`."""
    for step, mask in ((2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F), (8, 0x00FF00FF00FF00FF)):
        kmer = kmer >> np.uint64(step) & np.uint64(mask) | (kmer & np.uint64(mask)) << np.uint64(step)
    low = np.uint64(0x0000FFFF0000FFFF)
    kmer = kmer >> np.uint64(16) & low | (kmer & low) << np.uint64(16)
    return ~(kmer >> np.uint64(32) | kmer << np.uint64(32)) >> np.uint64(2)

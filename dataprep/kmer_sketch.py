"""Which 31-mers a sequence holds, on either strand: a sample that every sequence draws alike.

A k-mer is in the sample by its letters alone (as in FracMinHash), so samples of different sequences can be compared.
Two hashes decide, both the same for a k-mer and its reverse complement: a cheap one of its middle 15 letters, computed
for every position in few passes of 8- and 16-bit arithmetic, and a strong one of the whole k-mer, for what is left.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.alphabet import CODE_N

KMER = 31  # odd, so that no k-mer is its own reverse complement; 62 bits
_PIECE = 2**18  # bases
_MIDDLE = 8  # the middle 15 letters are the 8-mers at 8 and at 15, which share a letter
_FEWEST_FIRST = 2**9  # of 2**16: the share of positions that the first hash keeps at least, so that it stays fair
_SCRAMBLE_16 = np.uint16(0x9E37)
_SCRAMBLE = np.uint64(0x9E3779B97F4A7C15)
_SCRAMBLE_AGAIN = np.uint64(0xBF58476D1CE4E5B9)


class SampleRate(NamedTuple):
    """How much of all k-mers is sampled: a hash of the middle below `first` of 2**16, of the whole at most `second`."""

    first: int
    second: int

    @property
    def share(self) -> float:
        return self.first / 2**16 * (self.second + 1) / 2**64


def sample_rate(share: float) -> SampleRate:
    """The rate nearest to `share`, from 0 to 1."""
    first = min(max(round(share * 2**16), _FEWEST_FIRST), 2**16)
    return SampleRate(first, min(round(share * 2**16 / first * 2**32) * 2**32, 2**64) - 1)


def sample_kmers(packed: NDArray[np.uint8], rate: SampleRate) -> tuple[NDArray[np.uint64], int]:
    """The sampled 31-mers of (n,) packed codes, as canonical 62-bit numbers, in no order and with repeats.

    K-mers that hold an N do not exist.

    Returns:
        The sample, and a fingerprint: equal for sequences that are equal or reverse complements.
    """
    samples, fingerprint = [np.empty(0, np.uint64)], 0
    has_n = bool(((packed & np.uint8(CODE_N)) != 0).any())
    # in pieces that stay in the cache; each overlaps the next by all but one letter of a k-mer
    for start in range(0, packed.size - KMER + 1, _PIECE):
        kmers = _candidates(packed[start : start + _PIECE + KMER - 1], rate.first, has_n)
        mixed = (kmers ^ kmers >> np.uint64(29)) * _SCRAMBLE
        mixed = (mixed ^ mixed >> np.uint64(32)) * _SCRAMBLE_AGAIN
        samples.append(kmers[mixed <= np.uint64(rate.second)])
        fingerprint += int(mixed.sum(dtype=np.uint64))
    return np.concatenate(samples), fingerprint % 2**64


def _candidates(packed: NDArray[np.uint8], first: int, has_n: bool) -> NDArray[np.uint64]:
    """The canonical 31-mers that the first hash keeps."""
    forward, reverse = _eight_mers(packed)
    starts = _starts(forward, reverse, first, packed.size - KMER + 1)
    if has_n:
        starts = _without_n(packed, starts)
    return np.minimum(
        _join(forward[starts], forward[starts + 8], forward[starts + 16], forward[starts + 23]),
        _join(reverse[starts + 23], reverse[starts + 15], reverse[starts + 7], reverse[starts]),
    )


def _eight_mers(packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """(n - 7,) uint16: the 8-mer that starts at each base, and its reverse complement; N counts as A."""
    # products, because numpy's shifts of small integers take eight times as long
    ones = packed & np.uint8(3)
    twos = ones[:-1] * np.uint8(4) + ones[1:]
    fours = (twos[:-2] * np.uint8(16) + twos[2:]).astype(np.uint16)
    forward = fours[:-4] * np.uint16(256) + fours[4:]
    ones ^= np.uint8(3)
    twos = ones[1:] * np.uint8(4) + ones[:-1]
    fours = (twos[2:] * np.uint8(16) + twos[:-2]).astype(np.uint16)
    return forward, fours[4:] * np.uint16(256) + fours[:-4]


def _starts(forward: NDArray[np.uint16], reverse: NDArray[np.uint16], first: int, count: int) -> NDArray[np.int64]:
    if first >= 2**16:
        return np.arange(count)
    # a sum of the two strands' views of the middle does not know which strand is which
    middle = forward[_MIDDLE : _MIDDLE + count] + reverse[2 * _MIDDLE - 1 : 2 * _MIDDLE - 1 + count]
    middle *= _SCRAMBLE_16
    return np.flatnonzero(middle < first)


def _without_n(packed: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The starts of k-mers that hold no N."""
    places = np.flatnonzero((packed & np.uint8(CODE_N)) != 0)
    return starts[np.searchsorted(places, starts) == np.searchsorted(places, starts + KMER)]


def _join(*eights: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Four 8-mers, the last overlapping the third by a letter -> 31-mers."""
    a, b, c, d = (eight.astype(np.uint64) for eight in eights)
    return a << np.uint64(46) | b << np.uint64(30) | c << np.uint64(14) | d & np.uint64(2**14 - 1)

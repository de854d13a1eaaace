"""Which 31-mers a sequence holds, on either strand: a sample that every sequence draws alike.

A k-mer is in the sample by its letters alone (as in FracMinHash), so samples of different sequences can be compared.
Two hashes decide, both the same for a k-mer and its reverse complement: a cheap one of its middle 15 letters, computed
for every position (`kmer_loops.choose_kmers`), and a strong one of the whole k-mer, for what is left.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataprep.kmer_loops import choose_kmers
from dataprep.staged_sequence import Stretch

KMER = 31  # odd, so that no k-mer is its own reverse complement; 62 bits
_PIECE = 2**18  # bases, a multiple of 4
_FEWEST_FIRST = 2**9  # of 2**16: the share of positions that the first hash keeps at least, so that it stays fair
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


def sample_kmers(stretch: Stretch, rate: SampleRate) -> tuple[NDArray[np.uint64], int]:
    """The sampled 31-mers of a stretch, as canonical 62-bit numbers, in no order and with repeats.

    K-mers that hold an N do not exist.

    Returns:
        The sample, and a fingerprint: equal for sequences that are equal or reverse complements.
    """
    samples, fingerprint = [np.empty(0, np.uint64)], 0
    starts, kmers = np.empty(_PIECE, np.int64), np.empty(_PIECE, np.uint64)
    # in pieces, which bound the memory; each overlaps the next by all but one letter of a k-mer
    for first in range(0, stretch.length - KMER + 1, _PIECE):
        length = min(_PIECE + KMER - 1, stretch.length - first)
        piece = stretch.bases[first // 4 : -(-(first + length) // 4)]
        count = choose_kmers(piece, length, rate.first, starts, kmers)
        found = kmers[:count]
        if len(stretch.n_runs):
            found = found[_free_of_n(starts[:count] + first, stretch.n_runs)]
        mixed = (found ^ found >> np.uint64(29)) * _SCRAMBLE
        mixed = (mixed ^ mixed >> np.uint64(32)) * _SCRAMBLE_AGAIN
        samples.append(found[mixed <= np.uint64(rate.second)])
        fingerprint += int(mixed.sum(dtype=np.uint64))
    return np.concatenate(samples), fingerprint % 2**64


def _free_of_n(starts: NDArray[np.int64], n_runs: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which of the k-mers at `starts` hold no N."""
    ended = np.searchsorted(n_runs[:, 1], starts, "right")
    begun = np.searchsorted(n_runs[:, 0], starts + KMER, "left")
    return ended == begun

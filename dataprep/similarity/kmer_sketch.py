"""A sample of the 31-mers of a sequence, on either strand, that can be compared between sequences.

Only the letters of a k-mer decide whether it is in the sample (as in FracMinHash). Two hashes decide, and both are the
same for a k-mer and its reverse complement: a cheap hash of the middle 15 letters, computed at every position
(`kmer_loops.sample_kmers`), and a strong hash of the whole k-mer, computed where the cheap one passes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.prepared_sequence import Stretch

from . import kmer_loops

KMER = 31  # odd, so that no k-mer is its own reverse complement; 62 bits
_FEWEST_FIRST = 2**9  # of 2**16: least share that passes the first hash; a lower one would sample unevenly


class SampleRate(NamedTuple):
    """The share of all k-mers that is sampled: first hash below `first` (of 2**16), second hash at most `second`."""

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

    K-mers that hold an N are not sampled.

    Returns:
        The sample, and a fingerprint that is equal for sequences that are equal or reverse complements.
    """
    kmers = np.empty(max(stretch.length - KMER + 1, 0) + 1, np.uint64)  # pages that are never written cost no memory
    count, fingerprint = kmer_loops.sample_kmers(
        stretch.bases, stretch.length, stretch.n_runs, rate.first, np.uint64(rate.second), kmers
    )
    return kmers[:count].copy(), int(fingerprint)

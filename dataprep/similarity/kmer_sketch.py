"""Which 31-mers a sequence holds, on either strand: a sample that every sequence draws alike.

A k-mer is in the sample by its letters alone (as in FracMinHash), so samples of different sequences can be compared.
Two hashes decide, both the same for a k-mer and its reverse complement: a cheap one of its middle 15 letters, computed
for every position (`kmer_loops.sample_kmers`), and a strong one of the whole k-mer, for what is left.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.staged_sequence import Stretch

from . import kmer_loops

KMER = 31  # odd, so that no k-mer is its own reverse complement; 62 bits
_FEWEST_FIRST = 2**9  # of 2**16: the share of positions that the first hash keeps at least, so that it stays fair


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
    kmers = np.empty(max(stretch.length - KMER + 1, 0) + 1, np.uint64)  # memory that nobody writes costs nothing
    count, fingerprint = kmer_loops.sample_kmers(
        stretch.bases, stretch.length, stretch.n_runs, rate.first, np.uint64(rate.second), kmers
    )
    return kmers[:count].copy(), int(fingerprint)

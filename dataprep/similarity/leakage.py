"""Measures leakage: how many exact 31-mers of each held-out split, on either strand, the train split holds too.

Counts a sample of the k-mers (FracMinHash: k-mers with a low hash), so that memory stays bounded for any number of
genomes. The share that is sampled depends only on the number of planned bases, so the report is reproducible.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.corpus.index import LeakageReport, LeakageRow
from dnachunker.dataprep.layout.blocks import PlannedBlock, split_order

from .kmer_sketch import KMER, SampleRate, sample_rate
from .survey import BlockFacts

SAMPLED_KMERS = 2**21  # 16 MiB; in a corpus of less than 2 Mbp every k-mer is counted


def corpus_rate(bases: int) -> SampleRate:
    """The sampling rate for a corpus of `bases` bases."""
    return sample_rate(min(1.0, SAMPLED_KMERS / max(bases, 1)))


def measure_leakage(blocks: Sequence[PlannedBlock], facts: Sequence[BlockFacts], rate: SampleRate) -> LeakageReport:
    """For each source of each held-out split: its distinct sampled 31-mers, and how many of them train holds too."""
    kmers: dict[tuple[str, str], list[NDArray[np.uint64]]] = {}
    for block, fact in zip(blocks, facts, strict=True):
        kmers.setdefault((block.split, "" if block.split == "train" else block.source), []).append(fact.kmers)
    train = distinct(kmers.pop(("train", ""), []))
    rows = []
    for split in split_order(split for split, _ in kmers):
        for source in dict.fromkeys(block.source for block in blocks if block.split == split):
            own = distinct(kmers[split, source])
            rows.append(LeakageRow(split=split, source=source, kmers=own.size, in_train=_count_in(own, train)))
    return LeakageReport(k=KMER, sampled=round(rate.share, 9), rows=rows)


def distinct(parts: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """The different k-mers of all parts, smallest first."""
    merged = np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))
    # np.unique hashes these numbers and takes a hundred times as long
    return merged[np.concatenate([[True], merged[1:] != merged[:-1]])] if merged.size else merged


def _count_in(wanted: NDArray[np.uint64], sorted_kmers: NDArray[np.uint64]) -> int:
    if not sorted_kmers.size:
        return 0
    places = np.minimum(np.searchsorted(sorted_kmers, wanted), sorted_kmers.size - 1)
    return int(np.count_nonzero(sorted_kmers[places] == wanted))

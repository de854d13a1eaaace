"""Surveys every block before anything is written: counts its N and samples its k-mers.

The plan needs these facts to leave out duplicates and blocks of mostly N. The tasks run in any process and return a few
numbers a block; the results do not depend on how blocks are grouped into tasks.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.layout.blocks import PlannedBlock
from dnachunker.dataprep.layout.plan import PlannedSource
from dnachunker.dataprep.packed_codes import mark_n, run_bases, unpack_bases
from dnachunker.model.alphabet import CODE_N

from .kmer_sketch import SampleRate, sample_kmers

_JOB_BASES = 2**25  # takes a fraction of a second: short enough to balance load, long enough to be worth sending


class BlockFacts(NamedTuple):
    """The results of the survey for one block.

    Attributes:
        n_bases: number of N.
        fingerprint: equal for blocks that are equal or reverse complements, and rarely equal for others.
        kmers: the sampled canonical 31-mers, in no order, repeats included.
    """

    n_bases: int
    fingerprint: int
    kmers: NDArray[np.uint64]


class BlocksJob(NamedTuple):
    blocks: tuple[PlannedBlock, ...]
    rate: SampleRate


def block_jobs(blocks: Sequence[PlannedBlock], rate: SampleRate) -> list[BlocksJob]:
    """Jobs for `survey_task` or `digest_task`; results in job order are in block order."""
    return [BlocksJob(tuple(group), rate) for group in _share_out(blocks)]


def survey_task(job: BlocksJob, sources: Mapping[str, PlannedSource]) -> list[BlockFacts]:
    """The facts of each block of the job."""
    facts = []
    for block in job.blocks:
        stretch = sources[block.source].read(block.contig, block.start, block.end)
        kmers, fingerprint = sample_kmers(stretch, job.rate)
        facts.append(BlockFacts(run_bases(stretch.n_runs), fingerprint, kmers))
    return facts


def digest_task(job: BlocksJob, sources: Mapping[str, PlannedSource]) -> list[bytes]:
    """A digest of each block: equal exactly for blocks that are equal or reverse complements; case is ignored."""
    digests = []
    for block in job.blocks:
        stretch = sources[block.source].read(block.contig, block.start, block.end)
        codes = unpack_bases(stretch.bases, stretch.length)
        mark_n(codes, stretch.n_runs)
        reverse = np.where(codes < CODE_N, np.uint8(3) - codes, codes)[::-1]
        digests.append(hashlib.sha256(min(codes.tobytes(), reverse.tobytes())).digest())
    return digests


def _share_out(blocks: Iterable[PlannedBlock]) -> Iterator[list[PlannedBlock]]:
    """The blocks in order, in groups of about `_JOB_BASES` bases."""
    taken = 0

    def number(block: PlannedBlock) -> int:
        nonlocal taken
        taken += block.end - block.start
        return (taken - 1) // _JOB_BASES

    for _, group in groupby(blocks, key=number):
        yield list(group)

"""A look at every block before anything is written: what it consists of, and what it is like.

The plan needs it: blocks of mostly N and duplicates are left out. The tasks go over ranges of contigs, in any process,
and return a few numbers a block; what they return does not depend on how the work was cut.
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

_JOB_BASES = 2**25  # a fraction of a second's work: short enough to balance, long enough to be worth sending


class BlockFacts(NamedTuple):
    """What a survey knows of one block.

    Attributes:
        n_bases: letters that are N.
        fingerprint: equal for equal blocks and for reverse complements; rarely equal otherwise.
        kmers: the sampled canonical 31-mers, in no order, repeats included.
    """

    n_bases: int
    fingerprint: int
    kmers: NDArray[np.uint64]


class BlocksJob(NamedTuple):
    blocks: tuple[PlannedBlock, ...]
    rate: SampleRate


def block_jobs(blocks: Sequence[PlannedBlock], rate: SampleRate) -> list[BlocksJob]:
    """Work that surveys `blocks`; results in job order are in block order."""
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
    """A digest of each block's letters: equal exactly if they are equal or reverse complements; case is ignored."""
    digests = []
    for block in job.blocks:
        stretch = sources[block.source].read(block.contig, block.start, block.end)
        codes = unpack_bases(stretch.bases, stretch.length)
        mark_n(codes, stretch.n_runs)
        reverse = np.where(codes < CODE_N, np.uint8(3) - codes, codes)[::-1]
        digests.append(hashlib.sha256(min(codes.tobytes(), reverse.tobytes())).digest())
    return digests


def _share_out(blocks: Iterable[PlannedBlock]) -> Iterator[list[PlannedBlock]]:
    """Blocks in order, in groups of about `_JOB_BASES` bases."""
    taken = 0

    def number(block: PlannedBlock) -> int:
        nonlocal taken
        taken += block.end - block.start
        return (taken - 1) // _JOB_BASES

    for _, group in groupby(blocks, key=number):
        yield list(group)

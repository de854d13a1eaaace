"""A look at every base before anything is written: where long runs of N lie, and what each block consists of.

The plan needs it: runs of N split blocks, blocks of mostly N and duplicates are left out. The tasks go over ranges of
contigs, in any process, and return a few numbers a block; what they return does not depend on how the work was cut.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dataprep.blocks import PlannedBlock, Stretch
from dataprep.build_plan import PlannedSource
from dataprep.kmer_sketch import SampleRate, sample_kmers
from dataprep.splits import Interval
from model.alphabet import CODE_N

_JOB_BASES = 2**25  # a quarter of a second's work: short enough to balance, long enough to be worth sending
_READ_BASES = 2**22
_CODE_BITS = np.uint8(7)


_Piece = TypeVar("_Piece", Stretch, PlannedBlock)


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


class GapJob(NamedTuple):
    stretches: tuple[Stretch, ...]
    n_gap: int


class BlocksJob(NamedTuple):
    blocks: tuple[PlannedBlock, ...]
    rate: SampleRate


def gap_jobs(source: str, intervals: Iterable[Interval], n_gap: int) -> list[GapJob]:
    """Work that finds the runs of N in the used parts of one genome."""
    pieces = (
        Stretch(source, contig, start, min(start + _JOB_BASES, last))
        for contig, first, last, _ in intervals
        for start in range(first, last, _JOB_BASES)
    )
    return [GapJob(tuple(group), n_gap) for group in _share_out(pieces)]


def block_jobs(blocks: Sequence[PlannedBlock], rate: SampleRate) -> list[BlocksJob]:
    """Work that surveys `blocks`; results in job order are in block order."""
    return [BlocksJob(tuple(group), rate) for group in _share_out(blocks)]


def gap_task(job: GapJob, sources: Mapping[str, PlannedSource]) -> list[Stretch]:
    """Runs of N of at least `n_gap`, and shorter ones at the ends of a stretch, where they may go on."""
    return [gap for stretch in job.stretches for gap in _gaps_of(stretch, job.n_gap, sources[stretch.source])]


def survey_task(job: BlocksJob, sources: Mapping[str, PlannedSource]) -> list[BlockFacts]:
    """The facts of each block of the job."""
    facts = []
    for block in job.blocks:
        packed = _read(block, sources)
        kmers, fingerprint = sample_kmers(packed, job.rate)
        facts.append(BlockFacts(int(np.count_nonzero((packed & np.uint8(CODE_N)) != 0)), fingerprint, kmers))
    return facts


def digest_task(job: BlocksJob, sources: Mapping[str, PlannedSource]) -> list[bytes]:
    """A digest of each block's letters: equal exactly if they are equal or reverse complements; case is ignored."""
    digests = []
    for block in job.blocks:
        codes = _read(block, sources) & _CODE_BITS
        reverse = np.where(codes < CODE_N, np.uint8(3) - codes, codes)[::-1]
        digests.append(hashlib.sha256(min(codes.tobytes(), reverse.tobytes())).digest())
    return digests


def join_gaps(gaps: Iterable[Stretch], n_gap: int) -> list[Stretch]:
    """Join the runs that the cutting of the work had cut; `gaps` in order; runs under `n_gap` are dropped."""
    joined: list[Stretch] = []
    for gap in gaps:
        last = joined[-1] if joined else None
        if last and last[:2] == gap[:2] and last.end == gap.start:
            joined[-1] = last._replace(end=gap.end)
        else:
            joined.append(gap)
    return [gap for gap in joined if gap.end - gap.start >= n_gap]


def _gaps_of(stretch: Stretch, n_gap: int, source: PlannedSource) -> Iterator[Stretch]:
    """Runs of N, in order; those in the inside are at least `n_gap` long."""
    contig = source.contigs[stretch.contig]
    pending: Stretch | None = None  # a run that reaches the end of what was read
    for start in range(stretch.start, stretch.end, _READ_BASES):
        end = min(start + _READ_BASES, stretch.end)
        for first, last in _runs_of_n(source.genome_here().read(contig, start, end), n_gap).tolist():
            run = Stretch(*stretch[:2], start + first, start + last)
            if pending and pending.end == run.start:
                pending = pending._replace(end=run.end)
                continue
            if pending and _matters(pending, stretch, n_gap):
                yield pending
            pending = run
    if pending and _matters(pending, stretch, n_gap):
        yield pending


def _matters(run: Stretch, within: Stretch, n_gap: int) -> bool:
    return run.end - run.start >= n_gap or run.start == within.start or run.end == within.end


def _runs_of_n(packed: NDArray[np.uint8], n_gap: int) -> NDArray[np.int64]:
    """(k, 2) start,end of every run of N of at least `n_gap`, and of any that touches an end; some shorter ones too."""
    # a run of n_gap letters covers a probe; most genome has N nowhere near one and is not looked at further
    probes = np.append(np.arange(0, packed.size, n_gap), packed.size - 1)
    hits = probes[(packed[probes] & _CODE_BITS) == CODE_N]
    if not hits.size:
        return np.empty((0, 2), np.int64)
    first = max(int(hits[0]) - n_gap, 0)
    inside = (packed[first : int(hits[-1]) + n_gap + 1] & _CODE_BITS) == CODE_N
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).view(np.int8)))
    return edges.reshape(-1, 2) + first


def _read(block: PlannedBlock, sources: Mapping[str, PlannedSource]) -> NDArray[np.uint8]:
    source = sources[block.source]
    return source.genome_here().read(source.contigs[block.contig], block.start, block.end)


def _share_out(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces in order, in groups of about `_JOB_BASES` bases."""
    taken = 0

    def number(piece: _Piece) -> int:
        nonlocal taken
        taken += piece.end - piece.start
        return (taken - 1) // _JOB_BASES

    for _, group in groupby(pieces, key=number):
        yield list(group)

"""Cuts the intervals of splits into blocks with unique keys, and deals the blocks to shards; reads no sequence."""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from .splits import Interval

# reasons why bases of a split are in no block
GAP, TOO_MUCH_N, TOO_SHORT, DUPLICATE = "gap", "too_much_n", "too_short", "duplicate"
_FIRST_SPLITS = ("train", "valid", "test")  # other splits follow by name


class PlannedBlock(NamedTuple):
    """The key and the place of one block; coordinates are 0-based, half-open."""

    key: str
    source: str
    contig: str
    start: int
    end: int
    split: str


class PlannedShard(NamedTuple):
    """One shard file and its blocks, in order."""

    name: str
    split: str
    blocks: tuple[PlannedBlock, ...]

    @property
    def bases(self) -> int:
        return sum(block.end - block.start for block in self.blocks)


class Dropped(Counter[tuple[str, str, str, str]]):
    """Counts of blocks and bases left out: (source, split, reason, "blocks" or "bases") -> how many."""

    def note(self, source: str, split: str, reason: str, bases: int) -> None:
        self[source, split, reason, "blocks"] += 1
        self[source, split, reason, "bases"] += bases

    def bases_of(self, source: str, reason: str) -> int:
        """Bases of one source left out for one reason, over all splits."""
        return sum(n for (s, _, r, unit), n in self.items() if (s, r, unit) == (source, reason, "bases"))

    def table(self) -> list[tuple[str, str, str, int, int]]:
        """Rows of source, split, reason, blocks, bases, in the order of first occurrence."""
        places = dict.fromkeys(key[:3] for key in self)
        return [(*place, self[*place, "blocks"], self[*place, "bases"]) for place in places]


def split_at_gaps(
    intervals: Iterable[Interval], gaps: Mapping[str, Sequence[tuple[int, int]]]
) -> tuple[list[Interval], list[Interval]]:
    """The parts of the intervals outside the gaps, and the parts inside the gaps, both in order.

    Args:
        gaps: contig -> start,end of its gaps, ascending and disjoint.
    """
    outside: list[Interval] = []
    inside: list[Interval] = []
    for piece in intervals:
        own = gaps.get(piece.contig, ())
        position = piece.start
        for start, end in own[bisect_right(own, piece.start, key=itemgetter(1)) :]:
            if start >= piece.end:
                break
            start, end = max(start, piece.start), min(end, piece.end)
            if start > position:
                outside.append(piece._replace(start=position, end=start))
            inside.append(piece._replace(start=start, end=end))
            position = end
        if position < piece.end:
            outside.append(piece._replace(start=position))
    return outside, inside


def cut_blocks(
    source: str,
    intervals: Iterable[Interval],
    key_names: Mapping[str, str],
    *,
    block_bases: int,
    min_bases: int = 1,
    dropped: Dropped | None = None,
) -> list[PlannedBlock]:
    """Cut each interval from its start into blocks of `block_bases`; the last block of an interval may be shorter.

    Blocks shorter than `min_bases` are left out and counted in `dropped`.
    """
    blocks: list[PlannedBlock] = []
    for contig, first, last, split in intervals:
        for start in range(first, last, block_bases):
            end = min(start + block_bases, last)
            if end - start >= min_bases:
                key = f"{source}-{key_names[contig]}-{start:010d}"
                blocks.append(PlannedBlock(key, source, contig, start, end, split))
            elif dropped is not None:
                dropped.note(source, split, TOO_SHORT, end - start)
    return blocks


def contig_key_names(contigs: Sequence[str]) -> dict[str, str]:
    """A unique name `[A-Za-z0-9_]{1,40}` for each contig of a genome.

    Other characters become `_`. If the result is too long or not unique, it is shortened and gets a hash of the
    original name.
    """
    spelled = {contig: re.sub(r"[^A-Za-z0-9_]", "_", contig) for contig in contigs}
    uses = Counter(spelled.values())
    names: dict[str, str] = {}
    for contig, name in spelled.items():
        if uses[name] == 1 and len(name) <= 40:
            names[contig] = name
        else:
            names[contig] = f"{name[:23]}_{hashlib.sha256(contig.encode()).hexdigest()[:16]}"
    return names


def split_order(splits: Iterable[str]) -> list[str]:
    """train, valid, test, then any other split by name: the order of files, tables and messages."""
    present = set(splits)
    return [split for split in _FIRST_SPLITS if split in present] + sorted(present - set(_FIRST_SPLITS))


def plan_shards(blocks: Sequence[PlannedBlock], *, shard_bases: int) -> list[PlannedShard]:
    """Deal blocks to shards of their split in order; a shard closes before it would exceed `shard_bases`."""
    shards: list[PlannedShard] = []
    for split in split_order(block.split for block in blocks):
        groups: list[list[PlannedBlock]] = []
        filled = shard_bases
        for block in blocks:
            if block.split != split:
                continue
            size = block.end - block.start
            if not groups or filled + size > shard_bases:
                groups.append([])
                filled = 0
            groups[-1].append(block)
            filled += size
        shards += [
            PlannedShard(f"{split}-{number:06d}.tar.zst", split, tuple(group)) for number, group in enumerate(groups)
        ]
    return shards

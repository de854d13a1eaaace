"""Pure cutting: intervals of splits -> blocks with unique keys -> shards. No byte of sequence is touched here."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dataprep.splits import Interval

_FIRST_SPLITS = ("train", "valid", "test")  # others follow by name


class PlannedBlock(NamedTuple):
    """Where one block lies; coordinates 0-based, half-open."""

    key: str
    source: str
    contig: str
    start: int
    end: int
    split: str


class PlannedShard(NamedTuple):
    """One file and the blocks it will hold, in order."""

    name: str
    split: str
    blocks: tuple[PlannedBlock, ...]

    @property
    def bases(self) -> int:
        return sum(block.end - block.start for block in self.blocks)


def cut_blocks(
    source: str, intervals: Iterable[Interval], key_names: Mapping[str, str], *, block_bases: int, min_bases: int = 1
) -> tuple[list[PlannedBlock], int]:
    """Cut each interval into blocks of `block_bases` from its start, the last one shorter.

    Returns:
        The blocks in the order of `intervals`, and the bases in blocks left out for being under `min_bases`.
    """
    blocks: list[PlannedBlock] = []
    dropped = 0
    for contig, first, last, split in intervals:
        for start in range(first, last, block_bases):
            end = min(start + block_bases, last)
            if end - start < min_bases:
                dropped += end - start
                continue
            key = f"{source}-{key_names[contig]}-{start:010d}"
            blocks.append(PlannedBlock(key, source, contig, start, end, split))
    return blocks, dropped


def contig_key_names(contigs: Sequence[str]) -> dict[str, str]:
    """A name `[A-Za-z0-9_]{1,40}` for each contig of a genome, distinct even where spelling it out is not.

    Letters outside the set become `_`; names that would then be long or equal get a hash of the original.
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

"""Blocks with the same letters, on either strand: found by fingerprint, proved by digest, then dropped or refused."""

from collections.abc import Callable, Iterable, Sequence

from dnachunker.dataprep.layout.blocks import PlannedBlock, split_order
from dnachunker.foundations.failures import BadInput

from .survey import BlockFacts

_SHOWN = 3  # pairs named in a message


def duplicate_groups(
    blocks: Sequence[PlannedBlock],
    facts: Sequence[BlockFacts],
    digests_of: Callable[[Sequence[PlannedBlock]], Iterable[bytes]],
) -> list[list[int]]:
    """Numbers of blocks that are equal or reverse complements, group by group, in the order of `blocks`.

    Args:
        digests_of: reads blocks again and says which are truly equal; asked only about those whose facts agree.
    """
    alike: dict[tuple[int, int, int], list[int]] = {}
    for number, (block, fact) in enumerate(zip(blocks, facts, strict=True)):
        alike.setdefault((block.end - block.start, fact.n_bases, fact.fingerprint), []).append(number)
    candidates = [number for group in alike.values() if len(group) > 1 for number in group]
    equal: dict[bytes, list[int]] = {}
    for number, digest in zip(candidates, digests_of([blocks[number] for number in candidates]), strict=True):
        equal.setdefault(digest, []).append(number)
    return sorted(sorted(group) for group in equal.values() if len(group) > 1)


def choose_dropped(blocks: Sequence[PlannedBlock], groups: Sequence[Sequence[int]], policy: str) -> set[int]:
    """Numbers of the blocks to leave out.

    Within a split the first of a group stays. Across splits, `refuse` stops, and `drop` keeps the copy that is held
    out, so that nothing a model is tested on is also trained on.

    Raises:
        BadInput: `policy` is `refuse` and a group spans splits; names the first pairs of places.
    """
    rank = {split: place for place, split in enumerate(split_order(block.split for block in blocks))}
    dropped: set[int] = set()
    across: list[tuple[PlannedBlock, PlannedBlock]] = []
    for group in groups:
        kept = max(group, key=lambda number: (rank[blocks[number].split], -number))  # train is first in the order
        dropped.update(number for number in group if number != kept)
        other = next((number for number in group if blocks[number].split != blocks[kept].split), None)
        if other is not None:
            across.append((blocks[other], blocks[kept]))
    if across and policy == "refuse":
        shown = "; ".join(f"{_place(a)} equals {_place(b)}" for a, b in across[:_SHOWN])
        raise BadInput(
            f"{len(across)} blocks are in two splits with the same letters (or reversed): {shown}; put both places "
            "into one split, or set `duplicates: drop` to leave the training copy out"
        )
    return dropped


def _place(block: PlannedBlock) -> str:
    return f"{block.split} {block.source}/{block.contig}:{block.start}-{block.end}"

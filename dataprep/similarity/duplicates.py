"""Finds blocks with the same letters on either strand, by fingerprint and then by digest; drops or refuses them."""

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
    """Groups of blocks that are equal or reverse complements, as positions in `blocks`, in ascending order.

    Args:
        facts: of each block, in the order of `blocks`.
        digests_of: reads blocks again and returns their digests (`survey.digest_task`); called only for blocks whose
            length, N count and fingerprint agree with another block's.
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
    """Positions in `blocks` of the blocks to leave out.

    Within a split the first block of a group stays. Across splits, `refuse` raises, and `drop` keeps the held-out
    copy, so that a model is not trained on sequence it is tested on.

    Raises:
        BadInput: `policy` is `refuse` and a group spans splits; the message names the first pairs of blocks.
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
            f"{len(across)} blocks have the same letters as a block of another split, on either strand: {shown}; put "
            "both places into one split, or set `duplicates: drop` to leave the training copy out"
        )
    return dropped


def _place(block: PlannedBlock) -> str:
    return f"{block.split} {block.source}/{block.contig}:{block.start + 1}-{block.end}"

"""Divides contigs into splits: turns a split rule into disjoint intervals, and checks that they are disjoint."""

import hashlib
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from dnachunker.dataprep.config import BedSplit, ContigSplit, HashSplit, resolve_path
from dnachunker.dataprep.genomes.features import located_features
from dnachunker.dataprep.genomes.region import Region
from dnachunker.foundations.failures import BadInput

UNUSED = "unused"
_SHOWN_CLASHES = 5


class Interval(NamedTuple):
    """Bases start..end (0-based, half-open) of a contig, all in one split."""

    contig: str
    start: int
    end: int
    split: str


def divide(
    rule: ContigSplit | BedSplit | HashSplit, contigs: Mapping[str, int], *, source: str, seed: int
) -> list[Interval]:
    """The split intervals of one genome, disjoint, in the order of `contigs` and then by start.

    Bases that the rule leaves unused are in no interval.

    Args:
        contigs: name -> length in bases, in the order of the FASTA file.
        source: the genome's name, for messages.

    Raises:
        BadInput: the rule names a file or contig that does not exist, or puts one base into two splits.
    """
    if isinstance(rule, HashSplit):
        intervals = [piece for contig, length in contigs.items() for piece in _hash_tiles(rule, contig, length, seed)]
    elif isinstance(rule, ContigSplit):
        intervals = _whole_contigs(rule, contigs, source)
    else:
        intervals = _bed_intervals(rule, contigs, source)
    rank = {contig: position for position, contig in enumerate(contigs)}
    intervals.sort(key=lambda piece: (rank[piece.contig], piece.start, piece.end))
    audit_overlap(intervals, source, grown=isinstance(rule, BedSplit) and rule.grow_to is not None)
    merged = _merge(intervals)
    if isinstance(rule, BedSplit) and rule.rest != UNUSED:
        merged = _merge(_fill_rest(merged, contigs, rule.rest))
    return merged


def audit_overlap(intervals: Sequence[Interval], source: str, *, grown: bool = False) -> None:
    """Check that no base is in two splits; `intervals` must be sorted by start within each contig.

    Raises:
        BadInput: two splits overlap; the message lists the first pairs and counts all.
    """
    shown: list[str] = []
    clashes = 0
    for _, pieces in groupby(intervals, key=lambda piece: piece.contig):
        seen: dict[str, list[tuple[int, int]]] = {}  # per split, (end, start) of its intervals so far, sorted
        for piece in pieces:
            for split, ends in seen.items():
                reaching = ends[bisect_right(ends, (piece.start, piece.end)) :] if split != piece.split else []
                reaching = [other for other in reaching if other[0] > piece.start]
                clashes += len(reaching)
                for end, start in reaching[: _SHOWN_CLASHES - len(shown)]:
                    shown.append(f"{_show(Interval(piece.contig, start, end, split))} and {_show(piece)}")
            insort(seen.setdefault(piece.split, []), (piece.end, piece.start))
    if clashes:
        more = f"; and {clashes - len(shown)} more" if clashes > len(shown) else ""
        remedy = "leave `split.grow_to` out, or " if grown else ""
        raise BadInput(
            f"source {source}: splits share bases in {clashes} pairs{' of grown intervals' if grown else ''}: "
            f"{'; '.join(shown)}{more}; {remedy}change the split rule so that every base is in one split"
        )


def _show(piece: Interval) -> str:
    return f"{piece.split} {Region(*piece[:3])}"


def _hash_tiles(rule: HashSplit, contig: str, length: int, seed: int) -> list[Interval]:
    tiles: list[Interval] = []
    for number, start in enumerate(range(0, length, rule.tile)):
        digest = hashlib.blake2b(f"{seed}\0{contig}\0{number}".encode(), digest_size=8).digest()
        draw = int.from_bytes(digest, "big") / 2**64
        split = "test" if draw < rule.test else "valid" if draw < rule.test + rule.valid else "train"
        tiles.append(Interval(contig, start, min(start + rule.tile, length), split))
    merged = _merge(tiles)
    for left in range(len(merged) - 1):
        a, b = merged[left], merged[left + 1]
        if a.split == "train":
            merged[left] = a._replace(end=max(a.end - rule.gap, a.start))
        else:
            merged[left + 1] = b._replace(start=min(b.start + rule.gap, b.end))
    return [piece for piece in merged if piece.end > piece.start]


def _whole_contigs(rule: ContigSplit, contigs: Mapping[str, int], source: str) -> list[Interval]:
    intervals: list[Interval] = []
    named: set[str] = set()
    for split, globs in rule.splits.items():
        chosen: set[str] = set()
        for glob in globs:
            matches = [contig for contig in contigs if fnmatchcase(contig, glob)]
            if not matches:
                near = get_close_matches(glob, list(contigs), n=3, cutoff=0.0)
                raise BadInput(
                    f"source {source}: split {split} names contig {glob!r}, which no used contig matches; "
                    f"nearest: {', '.join(near) or 'none'}"
                )
            chosen.update(matches)
        intervals += [Interval(contig, 0, contigs[contig], split) for contig in chosen]
        named |= chosen
    if rule.rest != UNUSED:
        intervals += [Interval(contig, 0, size, rule.rest) for contig, size in contigs.items() if contig not in named]
    return intervals


def _bed_intervals(rule: BedSplit, contigs: Mapping[str, int], source: str) -> list[Interval]:
    path = resolve_path(rule.path)
    intervals = read_bed(path, contigs)
    if not intervals:
        raise BadInput(f"{path}: no interval lies on a used contig of source {source} (such as {next(iter(contigs))})")
    return [_grow(piece, rule.grow_to, contigs[piece.contig]) for piece in intervals] if rule.grow_to else intervals


def _grow(piece: Interval, target: int | str, contig_length: int) -> Interval:
    """The interval lengthened about its centre to at most the whole contig; an odd base goes to the right end."""
    length = piece.end - piece.start
    wanted = target if isinstance(target, int) else 1 << (length - 1).bit_length()
    wanted = min(wanted, contig_length)
    if wanted <= length:
        return piece
    start = min(max(piece.start - (wanted - length) // 2, 0), contig_length - wanted)
    return piece._replace(start=start, end=start + wanted)


def read_bed(path: Path, contigs: Mapping[str, int] | None = None) -> list[Interval]:
    """The intervals of a BED file with the split's name in column 4.

    Args:
        contigs: name -> length in bases; intervals on other contigs are left out. None: contigs are not checked.

    Raises:
        BadInput: no such file; a malformed line; an interval beyond its contig; no contig in common.
    """
    intervals: list[Interval] = []
    for contig, start, end, split, _, _, line in located_features(path, contigs, "bed", may_be_empty=False):
        if not split:
            raise BadInput(f"{path}, line {line}: column 4 is missing; it holds the name of the split")
        if not split.isascii() or not split.isidentifier() or not split.islower() or split == UNUSED:
            raise BadInput(f"{path}, line {line}: {split!r} is not a split name; use lower-case letters, digits, _")
        intervals.append(Interval(contig, start, end, split))
    return intervals


def _merge(intervals: Sequence[Interval]) -> list[Interval]:
    """Join intervals of one split that touch or overlap; input and output sorted by contig and start."""
    merged: list[Interval] = []
    for piece in intervals:
        last = merged[-1] if merged else None
        if last and (last.contig, last.split) == (piece.contig, piece.split) and piece.start <= last.end:
            merged[-1] = last._replace(end=max(last.end, piece.end))
        else:
            merged.append(piece)
    return merged


def _fill_rest(intervals: Sequence[Interval], contigs: Mapping[str, int], rest: str) -> list[Interval]:
    by_contig = {contig: list(pieces) for contig, pieces in groupby(intervals, key=lambda piece: piece.contig)}
    filled: list[Interval] = []
    for contig, length in contigs.items():
        position = 0
        for piece in by_contig.get(contig, []):
            if piece.start > position:
                filled.append(Interval(contig, position, piece.start, rest))
            filled.append(piece)
            position = piece.end
        if position < length:
            filled.append(Interval(contig, position, length, rest))
    return filled

"""Reads repeats from a BED or RepeatMasker file."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnachunker.foundations.failures import BadInput

from .decompress import read_plain
from .prepared_sequence import Runs

_MAX_LINE_BYTES = 2**16


class RepeatSource(NamedTuple):
    """A file of repeats: `kind` is `bed` or `repeatmasker`."""

    kind: str
    path: str


def read_repeats(repeats: RepeatSource, lengths: Mapping[str, int]) -> dict[str, Runs]:
    """Maximal runs of repeats by contig; lines about contigs that are not in `lengths` are skipped.

    Args:
        lengths: contig -> length in bases.

    Raises:
        BadInput: no such file, a malformed line, an interval beyond its contig, or no contig in common.
    """
    path = Path(repeats.path)
    edges = {name: array("q") for name in lengths}  # there are millions: 8 bytes each here, 36 in a list
    passed_over = ""
    for number, contig, start, end in _bed(path) if repeats.kind == "bed" else _repeatmasker(path):
        if contig not in edges:
            passed_over = passed_over or contig
            continue
        if not 0 <= start < end <= lengths[contig]:
            raise BadInput(
                f"{path}, line {number}: {contig}:{start}-{end} is not within {contig}, which has {lengths[contig]} "
                "bases; is the file for another assembly?"
            )
        edges[contig].extend((start, end))
    if not any(edges.values()) and passed_over:
        raise BadInput(
            f"{path}: no repeat lies on a contig of the genome: the file names {passed_over}, the genome has "
            f"{next(iter(lengths))}; is the file for another assembly?"
        )
    return {contig: _merge(np.frombuffer(flat, np.int64).reshape(-1, 2)) for contig, flat in edges.items() if flat}


def _merge(runs: Runs) -> Runs:
    """The runs sorted, with overlapping and touching ones joined."""
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(runs[:, 1])
    first = np.flatnonzero(np.concatenate([[True], runs[1:, 0] > reach[:-1]]))
    last = np.concatenate([first[1:], [len(runs)]]) - 1
    return np.stack([runs[first, 0], reach[last]], axis=1)


def _bed(path: Path) -> Iterator[tuple[int, str, int, int]]:
    for number, line in _lines(path):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) < 3:
            raise BadInput(f"{path}, line {number}: not `contig start end`: {line[:80]!r}")
        yield number, columns[0], _number(columns[1], path, number), _number(columns[2], path, number)


def _repeatmasker(path: Path) -> Iterator[tuple[int, str, int, int]]:
    """The columns `query sequence`, `begin` (1-based) and `end` (included) of a .out file."""
    for number, line in _lines(path):
        columns = line.split()
        if not columns or columns[0] in ("SW", "score") or line.startswith(("#", "There were no repetitive")):
            continue
        if len(columns) < 11:
            raise BadInput(f"{path}, line {number}: not a line of RepeatMasker's .out: {line[:80]!r}")
        yield number, columns[4], _number(columns[5], path, number) - 1, _number(columns[6], path, number)


def _number(text: str, path: Path, line: int) -> int:
    text = text.strip()
    # 18 digits fit an int64; int() of a megabyte of digits would take minutes
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise BadInput(f"{path}, line {line}: {text[:40]!r} is not a coordinate")
    return int(text)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    rest = b""
    number = 0
    for piece in _pieces(path):
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        if len(rest) > _MAX_LINE_BYTES:
            raise BadInput(f"{path}, line {number + len(lines) + 1}: longer than 64 KiB; this is not a list of repeats")
        for line in lines:
            number += 1
            yield number, line.decode("utf-8", "replace")
    if rest:
        yield number + 1, rest.decode("utf-8", "replace")


def _pieces(path: Path) -> Iterable[bytes]:
    if path.is_file() and not path.stat().st_size:
        return ()  # an empty file is a legal list of no repeats; `read_plain` would refuse it
    return read_plain(path)

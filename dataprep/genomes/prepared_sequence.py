"""Prepared genomes on disk: 2 bits a base as in shards, and the positions where N or soft-mask begins or ends.

A prepared genome is two files. `.bases` holds the contigs one after another; each starts at a whole byte, and N is
stored as A. `.edges` holds for each contig ascending int64 numbers `position << 4 | flags`: from that base on, the
bases are N (flag 4), soft-masked (flag 8), both or neither. Before the first edge they are neither. Any stretch can be
read without reading the rest.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.base_loops import EDGE_FLAG_BITS, find_edges, pack, shift
from dnachunker.dataprep.packed_codes import PACKED_REPEAT_BIT, RUN_DTYPE
from dnachunker.model.alphabet import CODE_N

Runs = NDArray[np.int64]  # (k, 2) start,end of maximal runs, in order
BASES, EDGES = ".bases", ".edges"
_EDGE_DTYPE = np.dtype("<i8")
_FLAG_MASK = (1 << EDGE_FLAG_BITS) - 1


@dataclass(frozen=True)
class Contig:
    """One record of a genome file, and its place in the prepared files.

    Attributes:
        line: line of the header in a FASTA file, or number of the record in a .2bit file; both from 1.
        offset: position of the contig's first byte in `.bases`.
        first_edge, edges: position of the contig's first number in `.edges`, and how many numbers it has.
    """

    name: str
    length: int
    line: int
    offset: int
    first_edge: int
    edges: int


class Stretch(NamedTuple):
    """Some bases of one contig.

    Attributes:
        bases: (ceil(length / 4),) uint8, 2 bits each as in a shard; unused bits are 0.
        n_runs, soft_runs: (k, 2) start,end of the runs, relative to the stretch, as in a shard.
    """

    length: int
    bases: NDArray[np.uint8]
    n_runs: NDArray[np.uint32]
    soft_runs: NDArray[np.uint32]


class PreparedWriter:
    """Writes a prepared genome from packed codes, contig by contig; memory does not grow with the genome.

    A context manager: it closes the files.
    """

    def __init__(self, stem: Path) -> None:
        self.contigs: list[Contig] = []
        self._bases = open(stem.with_suffix(BASES), "wb", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._edges = open(stem.with_suffix(EDGES), "wb", buffering=2**20)  # noqa: SIM115
        self._bytes = self._edge_count = 0  # written so far, over all contigs
        self._out = np.empty(0, np.uint8)
        self._found = np.empty(0, np.int64)
        self._reset()

    def _reset(self) -> None:
        self._length = self._carry = self._carried = self._flags = 0
        self._offset, self._first_edge = self._bytes, self._edge_count

    def add(self, codes: NDArray[np.uint8]) -> None:
        """Append (n,) packed codes to the current contig."""
        if codes.size > self._found.size:
            self._out, self._found = np.empty(codes.size // 4 + 1, np.uint8), np.empty(codes.size, np.int64)
        count, self._flags = find_edges(codes, self._length, self._flags, self._found)
        self._edges.write(self._found[:count].astype(_EDGE_DTYPE, copy=False).data)
        self._edge_count += count
        count, self._carry, self._carried = pack(codes, self._out, self._carry, self._carried)
        self._write(self._out[:count])
        self._length += codes.size

    def close_contig(self, name: str, line: int) -> None:
        """End the current contig: the bases since the last call belong to `name`."""
        if self._carried:
            self._write(np.array([self._carry << 2 * (4 - self._carried)], np.uint8))
        edges = self._edge_count - self._first_edge
        self.contigs.append(Contig(name, self._length, line, self._offset, self._first_edge, edges))
        self._reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._bases.close()
        finally:
            self._edges.close()

    def _write(self, data: NDArray[np.uint8]) -> None:
        view = data.data
        while view:  # an unbuffered file may write only a part
            view = view[self._bases.write(view) :]
        self._bytes += data.size


def prepared_bytes(contigs: Sequence[Contig]) -> tuple[int, int]:
    """Sizes in bytes of the `.bases` and the `.edges` file of these contigs."""
    return sum(-(-contig.length // 4) for contig in contigs), _EDGE_DTYPE.itemsize * sum(c.edges for c in contigs)


def read_stretch(stem: Path, contig: Contig, start: int, end: int) -> Stretch:
    """Bases start..end (0-based, half-open) of `contig`, 0 <= start < end <= length."""
    first = contig.offset + start // 4
    last = contig.offset + -(-end // 4)
    bases = np.empty(last - first, np.uint8)
    file = _opened(stem.with_suffix(BASES))  # keep a reference: without one, the file closes when the cache drops it
    if os.preadv(file.fileno(), [bases.data], first) != bases.size:
        raise OSError(f"{stem.with_suffix(BASES)}: the file became shorter during the build")
    if start % 4:
        shifted = np.empty(-(-(end - start) // 4), np.uint8)
        shift(bases, start % 4, shifted)
        bases = shifted
    if (end - start) % 4:
        bases[-1] &= 0xFF << 2 * (4 - (end - start) % 4) & 0xFF
    edges = _read_edges(stem, contig)
    inside = slice(*np.searchsorted(edges, [(start + 1) << EDGE_FLAG_BITS, end << EDGE_FLAG_BITS]).tolist())
    flags = int(edges[inside.start - 1]) & _FLAG_MASK if inside.start else 0
    own = np.concatenate([[flags], edges[inside] - (start << EDGE_FLAG_BITS)])
    return Stretch(end - start, bases, *(_runs(own, f, end - start).astype(RUN_DTYPE) for f in _FLAGS))


def n_runs(stem: Path, contig: Contig) -> Runs:
    """All runs of N of a contig."""
    return _runs(_read_edges(stem, contig), CODE_N, contig.length)


def replace_soft_mask(stem: Path, contigs: Sequence[Contig], soft: Mapping[str, Runs]) -> list[Contig]:
    """Rewrite `.edges` so that exactly the runs of `soft`, by contig, are soft-masked; returns the changed contigs."""
    none = np.empty((0, 2), np.int64)
    part = stem.with_suffix(EDGES + ".part")
    changed: list[Contig] = []
    written = 0
    with open(part, "wb") as sink:
        for contig in contigs:
            runs = {CODE_N: n_runs(stem, contig), PACKED_REPEAT_BIT: soft.get(contig.name, none)}
            places = np.unique(np.concatenate([own.ravel() for own in runs.values()]))
            places = places[places < contig.length]
            edges = places << EDGE_FLAG_BITS
            for flag, own in runs.items():
                edges |= flag * (np.searchsorted(own.ravel(), places, "right") % 2)  # odd: inside a run
            sink.write(edges.astype(_EDGE_DTYPE).tobytes())
            changed.append(replace(contig, first_edge=written, edges=edges.size))
            written += edges.size
    part.replace(stem.with_suffix(EDGES))
    return changed


_FLAGS = (CODE_N, PACKED_REPEAT_BIT)


def _read_edges(stem: Path, contig: Contig) -> NDArray[np.int64]:
    """(k,) the contig's edges, memory-mapped: read from disk only when used."""
    if not contig.edges:
        return np.empty(0, np.int64)
    return _mapped(stem.with_suffix(EDGES))[contig.first_edge : contig.first_edge + contig.edges]


# Files stay open, because opening a file for every block makes threads wait for each other. The bases are read, not
# memory-mapped, so that a genome does not count as memory of the process.
@lru_cache(maxsize=16)
def _opened(path: Path) -> BinaryIO:
    return open(path, "rb", buffering=0)


@lru_cache(maxsize=16)
def _mapped(path: Path) -> NDArray[np.int64]:
    return np.asarray(np.memmap(path, _EDGE_DTYPE, "r"))


def close_files() -> None:
    """Close the prepared files that were read, so that deleted ones free their disk space."""
    _opened.cache_clear()
    _mapped.cache_clear()


def _runs(edges: NDArray[np.int64], flag: int, length: int) -> Runs:
    """(k, 2) the maximal runs of bases with `flag`; a run without an end edge ends at `length`."""
    inside = (edges & flag) != 0
    turns = edges[np.flatnonzero(inside != np.concatenate([[False], inside[:-1]]))] >> EDGE_FLAG_BITS
    if turns.size % 2:
        turns = np.append(turns, length)
    return turns.reshape(-1, 2)

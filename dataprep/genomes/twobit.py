"""Reads UCSC .2bit files: versions 0 and 1, either byte order, with blocks of N and of soft-mask.

Layout (https://genome.ucsc.edu/FAQ/FAQformat.html#format7): a header of four words; an index with the name and offset
of each record; per record the length, the N blocks, the mask blocks (each a count, the starts, the sizes), a zero word,
and the bases, 2 bits each as T0 C1 A2 G3, first base in the high bits.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.packed_codes import PACKED_REPEAT_BIT, mark_runs, unpack_bases
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import CODE_N

from .contig_names import contig_name
from .file_kinds import TWOBIT_MAGICS
from .input_file import open_input
from .prepared_sequence import PreparedWriter

_TCAG_TO_ACGT = bytes([3, 1, 0, 2])  # 2bit's code -> ours
_STEP = 2**22  # bases read at a time
_MAX_RECORDS = 2**24


def read_twobit(path: Path, sink: PreparedWriter) -> None:
    """Write every sequence to `sink`, in the order of the file's index.

    Raises:
        BadInput: the file is truncated, damaged, or not a .2bit file of a known version.
    """
    try:
        with open_input(path) as handle:
            reader = _Reader(path, handle)
            for number, (name, offset) in enumerate(reader.index().items(), 1):
                for codes in reader.record(name, offset):
                    sink.add(codes)
                sink.close_contig(name, number)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    if not any(contig.length for contig in sink.contigs):
        raise BadInput(f"{path}: no sequence in {len(sink.contigs)} records of this .2bit file")


class _Reader:
    def __init__(self, path: Path, handle: BinaryIO) -> None:
        self.path = path
        self._handle = handle
        self._size = handle.seek(0, 2)
        handle.seek(0)
        magic = self._take(4)
        if magic not in TWOBIT_MAGICS:
            raise BadInput(f"{path}: not a .2bit file")
        self._order = "<" if magic == TWOBIT_MAGICS[0] else ">"

    def index(self) -> dict[str, int]:
        """Offset of each record by name, in file order."""
        version, count, _ = (self._word() for _ in range(3))
        if version > 1:
            raise BadInput(f"{self.path}: .2bit version {version} is not supported (0 and 1 are); convert it to FASTA")
        if count > _MAX_RECORDS:
            raise self._damaged(f"the header claims {count} sequences")
        offsets: dict[str, int] = {}
        for _ in range(count):
            letters = self._take(self._take(1)[0])
            try:
                name = contig_name(letters)
            except ValueError as error:
                raise BadInput(f"{self.path}, sequence {len(offsets) + 1}: {error}") from error
            if letters.split() != [letters]:  # empty, or with blanks
                raise self._damaged(f"sequence name {name!r}")
            if name in offsets:
                raise BadInput(f"{self.path}: sequence {name} twice; names must be unique")
            offsets[name] = self._word(8 if version == 1 else 4)
        first = self._handle.tell()
        for name, offset in offsets.items():
            if not first <= offset < self._size:
                raise self._damaged(
                    f"sequence {name} at offset {offset}, but records lie between {first} and the end at {self._size}"
                )
        return offsets

    def record(self, name: str, offset: int) -> Iterator[NDArray[np.uint8]]:
        """The packed codes of one sequence, in pieces of `_STEP` bases."""
        self._handle.seek(offset)
        length = self._word()
        n_runs = self._blocks(name, "N", length)
        soft_runs = self._blocks(name, "mask", length)
        self._word()
        self._room(-(-length // 4), f"{length} bases of {name}")
        for start in range(0, length, _STEP):
            end = min(start + _STEP, length)
            codes = unpack_bases(np.frombuffer(self._take(-(-(end - start) // 4)), np.uint8), end - start)
            codes = np.frombuffer(codes.tobytes().translate(_TCAG_TO_ACGT.ljust(256, b"\0")), np.uint8).copy()
            mark_runs(codes, n_runs, start, value=CODE_N)
            mark_runs(codes, soft_runs, start, bit=PACKED_REPEAT_BIT)
            yield codes

    def _blocks(self, name: str, kind: str, length: int) -> NDArray[np.int64]:
        """(k, 2) start,end of the record's N or mask blocks."""
        count = self._word()
        self._room(8 * count, f"{count} {kind} blocks in {name}")
        starts, sizes = (np.frombuffer(self._take(4 * count), f"{self._order}u4").astype(np.int64) for _ in range(2))
        runs = np.stack([starts, starts + sizes], axis=1)
        if count and (runs[-1, 1] > length or (runs[1:, 0] < runs[:-1, 1]).any()):
            raise self._damaged(f"the {kind} blocks of {name} overlap or end beyond it")
        return runs

    def _room(self, size: int, what: str) -> None:
        """Check before memory is taken that the file has `size` more bytes."""
        missing = self._handle.tell() + size - self._size
        if missing > 0:
            raise self._damaged(f"{what}: the file ends {missing} bytes early")

    def _word(self, size: int = 4) -> int:
        value: int = struct.unpack(self._order + ("I" if size == 4 else "Q"), self._take(size))[0]
        return value

    def _take(self, size: int) -> bytes:
        data = self._handle.read(size)
        if len(data) != size:
            raise self._damaged(f"the file ends {size - len(data)} bytes early")
        return data

    def _damaged(self, what: str) -> BadInput:
        return BadInput(f"{self.path}: damaged or truncated .2bit before offset {self._handle.tell()}: {what}")

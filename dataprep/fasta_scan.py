"""One pass over a FASTA file that checks every byte and turns letters into packed codes.

Policies: lower case is soft-mask; IUPAC letters other than ACGT count as N, by letter; line ends may be LF or CRLF and
the last may be missing; blanks inside lines are ignored; a record without sequence is skipped and counted. Everything
else that is not a nucleotide FASTA is refused with file, contig and line.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dataprep.fasta_index import LineGrid
from dataprep.packed_codes import PACKED_REPEAT_BIT
from failures import BadInput
from model.alphabet import BASES, CODE_N, IUPAC_AMBIGUOUS

_LINE_BREAKS = b"\n\r\t "  # deleted from sequence
_AMBIGUOUS = CODE_N + 1  # staged as N once counted
_ILLEGAL = 0xFF
_MAX_HEADER_BYTES = 2**20
_PROTEIN_SHARE = 0.1  # more ambiguous letters than this is protein or RNA: DNA assemblies have far under 0.1 %


def _letter_table() -> bytes:
    table = bytearray([_ILLEGAL]) * 256
    codes = {letter: code for code, letter in enumerate(BASES)} | {"N": CODE_N}
    for letter in BASES + IUPAC_AMBIGUOUS:
        code = codes.get(letter, _AMBIGUOUS)
        table[ord(letter)] = code
        table[ord(letter.lower())] = code | PACKED_REPEAT_BIT
    return bytes(table)


_TO_PACKED = _letter_table()
_FOLD_AMBIGUOUS = bytes(code - 1 if code & 7 == _AMBIGUOUS and code < 16 else code for code in range(256))
_TO_FOLDED = _TO_PACKED.translate(_FOLD_AMBIGUOUS)


@dataclass(frozen=True)
class Contig:
    """One record: `offset` of its first base in the staged file, `line` of its header in the FASTA (from 1)."""

    name: str
    length: int
    offset: int
    line: int


def pack_letters(letters: bytes) -> bytes:
    """Packed codes of FASTA letters that a scan has accepted; line breaks and blanks are dropped."""
    return letters.translate(_TO_FOLDED, _LINE_BREAKS)


class FastaScan:
    """Takes the file chunk by chunk; Python runs per header and per chunk, never per line.

    Packed codes go to `sink`, contigs one after another; with a `grid` instead, the place of every line is checked, so
    that the file itself can serve as the store.
    """

    def __init__(self, path: Path, *, sink: BinaryIO | None = None, grid: LineGrid | None = None) -> None:
        self.path = path
        self.contigs: list[Contig] = []
        self.ambiguous: Counter[str] = Counter()
        self._sink = sink
        self._grid = grid
        self._file_offset = 0  # of the chunk being fed
        self._lines: dict[str, int] = {}  # contig -> line of its header
        self._header: bytearray | None = None  # the header being read
        self._name: str | None = None  # the contig being read
        self._written = 0  # bases, all contigs
        self._offset = 0  # of this contig's first base
        self._line = 1
        self._last_byte = ord("\n")

    def feed(self, chunk: bytes) -> None:
        position = 0
        while position < len(chunk):
            if self._header is not None:
                end = chunk.find(b"\n", position)
                self._header += chunk[position : end if end >= 0 else len(chunk)]
                if len(self._header) > _MAX_HEADER_BYTES:
                    raise BadInput(f"{self.path}, line {self._line}: a header of over 1 MiB; this is not FASTA")
                if end < 0:
                    break
                self._open_contig(bytes(self._header))
                self._line += 1
                self._header = None
                position = end + 1
            else:
                end = chunk.find(b">", position)
                segment = chunk[position : end if end >= 0 else len(chunk)]
                if self._grid is not None and self._name is not None:
                    self._grid.add(self._file_offset + position, segment)
                self._add_sequence(segment)
                if end < 0:
                    break
                if (chunk[end - 1] if end else self._last_byte) != ord("\n"):
                    raise BadInput(f"{self._where()}: `>` inside a line of sequence; headers start their line")
                self._close_contig()
                self._header = bytearray()
                position = end + 1
        self._last_byte = chunk[-1]
        self._file_offset += len(chunk)

    def finish(self) -> None:
        if self._header is not None:
            self._open_contig(bytes(self._header))
        self._close_contig()
        if not self._written:
            raise BadInput(f"{self.path}: no sequence in {len(self.contigs)} FASTA records")
        foreign = sum(self.ambiguous.values()) / self._written
        if foreign > _PROTEIN_SHARE:
            letters = ", ".join(letter for letter, _ in self.ambiguous.most_common(5))
            raise BadInput(
                f"{self.path}: {foreign:.0%} of the letters are IUPAC codes other than ACGTN ({letters}); this looks "
                "like protein or RNA; give the genome's DNA"
            )

    def _open_contig(self, header: bytes) -> None:
        words = header.split(maxsplit=1)
        if b"\r" in header.rstrip(b"\r"):
            raise BadInput(f"{self.path}, line {self._line}: bare carriage returns end its lines; convert them to LF")
        if not words or header[:1].isspace():
            raise BadInput(f"{self.path}, line {self._line}: a header without a name; write `>NAME`")
        name = words[0].decode("utf-8", "backslashreplace")
        if name in self._lines:
            raise BadInput(
                f"{self.path}, line {self._line}: contig {name} again, first on line {self._lines[name]}; names must "
                "be unique"
            )
        self._lines[name] = self._line
        self._name = name
        self._offset = self._written

    def _close_contig(self) -> None:
        if self._name is not None:
            length = self._written - self._offset
            self.contigs.append(Contig(self._name, length, self._offset, self._lines[self._name]))
            if self._grid is not None:
                self._grid.close(self._name, length)
        self._name = None

    def _add_sequence(self, segment: bytes) -> None:
        if self._name is None:
            if segment.strip():
                start = segment.lstrip()[:20]
                raise BadInput(f"{self.path}, line 1: not FASTA: it starts with {start!r} instead of a `>NAME` line")
            self._line += segment.count(b"\n")
            return
        joined, breaks = _join_lines(segment)
        packed = joined.translate(_TO_PACKED)
        if _ILLEGAL in packed:  # a line break in an odd place, or truly illegal
            packed, breaks = segment.translate(_TO_PACKED, _LINE_BREAKS), segment.count(b"\n")
            if _ILLEGAL in packed:
                self._refuse_letter(segment)
        # IUPAC letters are rare: tell them apart only where there are any
        if _AMBIGUOUS in packed or _AMBIGUOUS | PACKED_REPEAT_BIT in packed:
            for letter in IUPAC_AMBIGUOUS.replace("N", ""):
                if count := segment.count(letter.encode()) + segment.count(letter.lower().encode()):
                    self.ambiguous[letter] += count
            packed = packed.translate(_FOLD_AMBIGUOUS)
        if self._sink is not None:
            self._sink.write(packed)
        self._written += len(packed)
        self._line += breaks

    def _refuse_letter(self, segment: bytes) -> None:
        for position, byte in enumerate(segment):
            if _TO_PACKED[byte] == _ILLEGAL and byte not in _LINE_BREAKS:
                self._line += segment.count(b"\n", 0, position)
                raise BadInput(f"{self._where()}: {chr(byte)!r} is not a nucleotide letter; is this DNA in FASTA?")

    def _where(self) -> str:
        return f"{self.path}, line {self._line}" + (f", contig {self._name}" if self._name else "")


def _join_lines(segment: bytes) -> tuple[bytes, int]:
    """Sequence without the line breaks that lie on a grid, and how many those were.

    Deleting bytes one by one takes longer than all else that is done to them; where lines are equally long, as almost
    everywhere, rows of a matrix are copied instead.
    """
    first = segment.find(b"\n")
    width = segment.find(b"\n", first + 1) - first
    rows = (len(segment) - first - 1) // width if first >= 0 and width > 0 else 0
    if not rows:
        return segment, 0
    end = first + 1 + rows * width
    grid = np.frombuffer(segment, np.uint8, rows * width, first + 1).reshape(rows, width)
    if not (grid[:, -1] == ord("\n")).all():
        return segment, 0
    tail = segment[end:]
    last = tail.endswith(b"\n")
    return b"".join((segment[:first], grid[:, :-1].tobytes(), tail[:-1] if last else tail)), 1 + rows + last

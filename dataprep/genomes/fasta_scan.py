"""One pass over a FASTA file that checks every byte and stages its letters.

Policies: lower case is soft-mask; IUPAC letters other than ACGT count as N, by letter; line ends may be LF or CRLF and
the last may be missing; blanks inside lines are ignored; a record without sequence is skipped and counted. Everything
else that is not a nucleotide FASTA is refused with file, contig and line.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from dnachunker.dataprep.base_loops import SKIPPED, translate
from dnachunker.dataprep.packed_codes import PACKED_REPEAT_BIT
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import BASES, CODE_N, IUPAC_AMBIGUOUS

from .staged_sequence import StageWriter

_LINE_BREAKS = b"\n\r\t "  # left out of sequence
_AMBIGUOUS = 0x10  # beside the code of N: a letter to be counted
_ILLEGAL = 0x80
_MAX_HEADER_BYTES = 2**20
_PROTEIN_SHARE = 0.1  # more ambiguous letters than this is protein or RNA: DNA assemblies have far under 0.1 %


def _letter_table() -> np.ndarray:
    table = np.full(256, _ILLEGAL, np.uint8)
    codes = {letter: code for code, letter in enumerate(BASES)} | {"N": CODE_N}
    for letter in BASES + IUPAC_AMBIGUOUS:
        code = codes.get(letter, CODE_N | _AMBIGUOUS)
        table[ord(letter)] = code
        table[ord(letter.lower())] = code | PACKED_REPEAT_BIT
    table[list(_LINE_BREAKS)] = SKIPPED
    return table


_TO_CODE = _letter_table()


class FastaScan:
    """Takes the file chunk by chunk; Python runs per header and per chunk, never per line. Codes go to `sink`."""

    def __init__(self, path: Path, sink: StageWriter) -> None:
        self.path = path
        self.ambiguous: Counter[str] = Counter()
        self._sink = sink
        self._codes = np.empty(0, np.uint8)
        self._lines: dict[str, int] = {}  # contig -> line of its header
        self._header: bytearray | None = None  # the header being read
        self._name: str | None = None  # the contig being read
        self._written = 0  # bases, all contigs
        self._line = 1
        self._width = self._column = 0  # of the last line of sequence, and of the one being read
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
                self._add_sequence(segment)
                if end < 0:
                    break
                if (chunk[end - 1] if end else self._last_byte) != ord("\n"):
                    raise BadInput(f"{self._where()}: `>` inside a line of sequence; headers start their line")
                self._close_contig()
                self._header = bytearray()
                position = end + 1
        self._last_byte = chunk[-1]

    def finish(self) -> None:
        if self._header is not None:
            self._open_contig(bytes(self._header))
        self._close_contig()
        if not self._written:
            raise BadInput(f"{self.path}: no sequence in {len(self._lines)} FASTA records")
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
        self._column = 0

    def _close_contig(self) -> None:
        if self._name is not None:
            self._sink.close_contig(self._name, self._lines[self._name])
        self._name = None

    def _add_sequence(self, segment: bytes) -> None:
        if self._name is None:
            if segment.strip():
                start = segment.lstrip()[:20]
                raise BadInput(f"{self.path}, line 1: not FASTA: it starts with {start!r} instead of a `>NAME` line")
            self._line += segment.count(b"\n")
            return
        if len(segment) > self._codes.size:
            self._codes = np.empty(len(segment), np.uint8)
        letters = np.frombuffer(segment, np.uint8)
        count, seen, lines, self._width, self._column = translate(
            letters, _TO_CODE, self._codes, self._width, self._column
        )
        if seen & _ILLEGAL:
            self._refuse_letter(segment)
        if seen & _AMBIGUOUS:
            for letter in IUPAC_AMBIGUOUS.replace("N", ""):
                if found := segment.count(letter.encode()) + segment.count(letter.lower().encode()):
                    self.ambiguous[letter] += found
        self._sink.add(self._codes[:count])
        self._written += count
        self._line += lines

    def _refuse_letter(self, segment: bytes) -> None:
        for position, byte in enumerate(segment):
            if _TO_CODE[byte] == _ILLEGAL:
                self._line += segment.count(b"\n", 0, position)
                raise BadInput(f"{self._where()}: {chr(byte)!r} is not a nucleotide letter; is this DNA in FASTA?")

    def _where(self) -> str:
        return f"{self.path}, line {self._line}" + (f", contig {self._name}" if self._name else "")

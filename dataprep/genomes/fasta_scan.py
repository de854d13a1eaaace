"""One pass over a FASTA file that checks every byte and writes the letters to a prepared genome.

Rules: lower case is soft-mask; IUPAC letters other than ACGT become N and are counted by letter; line ends are LF or
CRLF, and the last one may be missing; blanks inside lines are ignored; a record without sequence is skipped and
counted; a UTF-8 byte order mark is ignored. Anything else is refused with file, contig and line.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from dnachunker.dataprep.base_loops import SKIPPED, translate
from dnachunker.dataprep.packed_codes import PACKED_REPEAT_BIT
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import BASES, CODE_N, IUPAC_AMBIGUOUS

from .contig_names import contig_name
from .file_kinds import BYTE_ORDER_MARK, wrong_kind
from .prepared_sequence import PreparedWriter

_LINE_BREAKS = b"\n\r\t "  # bytes that are not part of the sequence
_AMBIGUOUS = 0x10  # set beside the code of N: a letter to be counted
_ILLEGAL = 0x80
_MAX_HEADER_BYTES = 2**20
_PROTEIN_SHARE = 0.1  # a larger share of ambiguous letters is protein or RNA: DNA assemblies have far less than 0.1 %


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
    """Reads a FASTA file piece by piece and writes codes to `sink`; Python runs per header and piece, never per line.

    Attributes:
        ambiguous: letters read as N that were not written N -> how many.
    """

    def __init__(self, path: Path, sink: PreparedWriter) -> None:
        self.path = path
        self.ambiguous: Counter[str] = Counter()
        self._sink = sink
        self._codes = np.empty(0, np.uint8)
        self._lines: dict[str, int] = {}  # contig -> line of its header
        self._header: bytearray | None = None  # the header being read
        self._name: str | None = None  # the contig being read
        self._written = 0  # bases of all contigs
        self._before = b""  # bytes before the first header, blanks at their ends left out
        self._line = 1
        self._width = self._column = 0  # see `base_loops.translate`
        self._last_byte = ord("\n")

    def feed(self, piece: bytes) -> None:
        """Scan the next piece of the file.

        Raises:
            BadInput: the piece breaks a rule of the module's docstring.
        """
        position = 0
        while position < len(piece):
            if self._header is not None:
                end = piece.find(b"\n", position)
                self._header += piece[position : end if end >= 0 else len(piece)]
                if len(self._header) > _MAX_HEADER_BYTES:
                    self._refuse_returns(bytes(self._header))
                    raise BadInput(f"{self.path}, line {self._line}: a header of over 1 MiB; this is not FASTA")
                if end < 0:
                    break
                self._open_contig(bytes(self._header))
                self._line += 1
                self._header = None
                position = end + 1
            else:
                end = piece.find(b">", position)
                segment = piece[position : end if end >= 0 else len(piece)]
                self._add_sequence(segment)
                if end < 0:
                    break
                marked = not self._lines and self._before == BYTE_ORDER_MARK  # the mark may stand right before `>`
                if not marked and (piece[end - 1] if end else self._last_byte) != ord("\n"):
                    raise BadInput(f"{self._where()}: `>` inside a line of sequence; headers start their line")
                self._close_contig()
                self._header = bytearray()
                position = end + 1
        self._last_byte = piece[-1]

    def finish(self) -> None:
        """Close the last contig.

        Raises:
            BadInput: the file holds no sequence, or looks like protein or RNA.
        """
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
        self._refuse_returns(header)
        if not words or header[:1].isspace():
            raise BadInput(f"{self.path}, line {self._line}: a header without a name; write `>NAME`")
        try:
            name = contig_name(words[0])
        except ValueError as error:
            raise BadInput(f"{self.path}, line {self._line}: {error}") from error
        if name in self._lines:
            raise BadInput(
                f"{self.path}, line {self._line}: contig {name} again, first on line {self._lines[name]}; contig names "
                "must be unique"
            )
        self._lines[name] = self._line
        self._name = name
        self._column = 0

    def _refuse_returns(self, header: bytes) -> None:
        if b"\r" in header.rstrip(b"\r"):
            raise BadInput(f"{self.path}, line {self._line}: lines end in bare carriage returns; convert them to LF")

    def _close_contig(self) -> None:
        if self._name is not None:
            self._sink.close_contig(self._name, self._lines[self._name])
        self._name = None

    def _add_sequence(self, segment: bytes) -> None:
        if self._name is None:
            self._before = (self._before + segment).strip()
            if not BYTE_ORDER_MARK.startswith(self._before):
                raise wrong_kind(self.path, self._before, "FASTA")
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
                raise BadInput(f"{self._where()}: {chr(byte)!r} is not a nucleotide letter; is this FASTA of DNA?")

    def _where(self) -> str:
        return f"{self.path}, line {self._line}" + (f", contig {self._name}" if self._name else "")

"""FASTA files: one pass that checks every byte and stages the letters as packed codes for random access.

Policies: lower case is soft-mask; IUPAC letters other than ACGT count as N, by letter; line ends may be LF or CRLF and
the last may be missing; blanks inside lines are ignored; a record without sequence is skipped and counted. Everything
else that is not a nucleotide FASTA is refused with file, contig and line.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataprep.decompress import read_plain
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


@dataclass(frozen=True)
class Contig:
    """One record: `offset` of its first base in the staged file, `line` of its header in the FASTA (from 1)."""

    name: str
    length: int
    offset: int
    line: int


@dataclass(frozen=True)
class StagedGenome:
    """A checked FASTA file, and where its packed codes lie; plain data, sent between processes.

    Attributes:
        codes_path: file of uint8 packed codes, one a base, contigs one after another.
        file, bytes, sha256: of the FASTA file as given (compressed, if it was).
        ambiguous: letters counted as N that were not N -> how many.
        empty_records: headers without sequence, which are not in `contigs`.
    """

    codes_path: str
    file: str
    bytes: int
    sha256: str
    contigs: tuple[Contig, ...]
    ambiguous: dict[str, int]
    empty_records: int

    def read(self, contig: Contig, start: int, end: int) -> NDArray[np.uint8]:
        """(end - start,) uint8 packed codes of a 0-based, half-open stretch of `contig`."""
        codes = np.fromfile(self.codes_path, np.uint8, end - start, offset=contig.offset + start)
        if codes.size != end - start:
            raise OSError(f"{self.codes_path}: shorter than its contigs; was the build folder changed?")
        return codes


def stage_genome(path: Path, folder: Path) -> StagedGenome:
    """Check the FASTA file at `path` and stage it in `folder`, named by its sha256; done before, it is reused.

    Raises:
        BadInput: the file is not a nucleotide FASTA; nothing of it stays in `folder`.
    """
    digest, size = hash_file(path)
    record = folder / f"{digest}.json"
    codes = folder / f"{digest}.codes"
    staged = _reuse(record, codes)
    if staged is None:
        part = folder / f"{digest}.{os.getpid()}.part"
        try:
            with open(part, "wb", buffering=2**22) as sink:
                scan = _FastaScan(path, sink)
                for chunk in read_plain(path):
                    scan.feed(chunk)
                scan.finish()
            os.replace(part, codes)
        finally:
            part.unlink(missing_ok=True)
        contigs = tuple(contig for contig in scan.contigs if contig.length)
        empty = len(scan.contigs) - len(contigs)
        staged = StagedGenome(str(codes), path.name, size, digest, contigs, dict(scan.ambiguous), empty)
        part.write_text(json.dumps(asdict(staged)), "utf-8")
        os.replace(part, record)
    return staged


def hash_file(path: Path) -> tuple[str, int]:
    """sha256 and size of a user's file.

    Raises:
        BadInput: missing or unreadable.
    """
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest(), os.fstat(handle.fileno()).st_size
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; check the path in the config") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def _reuse(record: Path, codes: Path) -> StagedGenome | None:
    try:
        values = json.loads(record.read_text("utf-8"))
        values["contigs"] = tuple(Contig(**contig) for contig in values["contigs"])
        values["codes_path"] = str(codes)  # the build folder may have been moved
        staged = StagedGenome(**values)
        complete = codes.stat().st_size == sum(contig.length for contig in staged.contigs)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return staged if complete else None


class _FastaScan:
    """Takes the file chunk by chunk; Python runs per header and per chunk, never per line."""

    def __init__(self, path: Path, sink: BinaryIO) -> None:
        self.path = path
        self.contigs: list[Contig] = []
        self.ambiguous: Counter[str] = Counter()
        self._sink = sink
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
                self._add_sequence(chunk[position : end if end >= 0 else len(chunk)])
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
        self._name = None

    def _add_sequence(self, segment: bytes) -> None:
        if self._name is None:
            if segment.strip():
                start = segment.lstrip()[:20]
                raise BadInput(f"{self.path}, line 1: not FASTA: it starts with {start!r} instead of a `>NAME` line")
            self._line += segment.count(b"\n")
            return
        packed = segment.translate(_TO_PACKED, _LINE_BREAKS)
        if _ILLEGAL in packed:
            self._refuse_letter(segment)
        # IUPAC letters are rare: tell them apart only where there are any
        if _AMBIGUOUS in packed or _AMBIGUOUS | PACKED_REPEAT_BIT in packed:
            for letter in IUPAC_AMBIGUOUS.replace("N", ""):
                if count := segment.count(letter.encode()) + segment.count(letter.lower().encode()):
                    self.ambiguous[letter] += count
            packed = packed.translate(_FOLD_AMBIGUOUS)
        self._sink.write(packed)
        self._written += len(packed)
        self._line += int(np.count_nonzero(np.frombuffer(segment, np.uint8) == ord("\n")))

    def _refuse_letter(self, segment: bytes) -> None:
        for position, byte in enumerate(segment):
            if _TO_PACKED[byte] == _ILLEGAL and byte not in _LINE_BREAKS:
                self._line += segment.count(b"\n", 0, position)
                raise BadInput(f"{self._where()}: {chr(byte)!r} is not a nucleotide letter; is this DNA in FASTA?")

    def _where(self) -> str:
        return f"{self.path}, line {self._line}" + (f", contig {self._name}" if self._name else "")

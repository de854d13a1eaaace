"""The one reader of files of intervals: BED, GFF3, GTF and RepeatMasker's .out, plain or compressed.

Blank lines, comments, `track` and `browser` lines and a byte order mark are skipped; fields are separated by tabs, or
by blanks where a line has too few tabs. The sequence that may follow the features of a GFF3 or GTF file is not read.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.whole_numbers import whole_number

from .contig_names import agree_on_contigs, match_contigs
from .decompress import read_plain
from .file_kinds import BED_LINES, GFF3, REPEATMASKER_OUT, text_kind, unpacked_name, wrong_kind
from .input_file import is_empty
from .region import Region
from .text_lines import byte_lines

BED, GFF, GTF, REPEATMASKER = "bed", "gff", "gtf", "repeatmasker"
_FORMS = {
    ".bed": BED, ".gff": GFF, ".gff2": GTF, ".gff3": GFF, ".gtf": GTF, ".out": REPEATMASKER,
}  # fmt: skip
_MAX_LINE_BYTES = 2**20
_SKIPPED = ("track", "browser")  # first words of lines for genome browsers
_COLUMN_NAMES = ("chrom", "chr", "chromosome", "contig", "seqname", "seqid")  # first word of a line of column names
_HEADER = ("SW", "bit", "score")  # first words of the header of RepeatMasker's .out
# `key value` or `key=value`; a value in quotes may hold semicolons
_ATTRIBUTE = re.compile(r'\s*([^\s=;]+)\s*([=\s])\s*("(?:[^"\\]|\\.)*"(?=\s*(?:;|$))|[^;]*)')
_NAMES = ("gene_name", "Name", "gene", "gene_id", "ID")  # attributes that name a feature, the best one first


class Feature(NamedTuple):
    """Bases [start, end) of a contig, 0-based, as one line of a file lists them.

    Attributes:
        kind: column 4 of BED ("" without one), column 3 of GFF and GTF, RepeatMasker's class/family.
        name: column 4 of BED, a name among the attributes of GFF and GTF, the repeat's name.
        strand: `+`, `-` or `.`.
        line: number of the line, from 1; 0 if the feature comes from no file.
    """

    contig: str
    start: int
    end: int
    kind: str
    name: str
    strand: str
    line: int = 0


def located_features(
    path: Path,
    lengths: Mapping[str, int] | None,
    form: str | None = None,
    *,
    skip_unknown: bool = True,
    may_be_empty: bool = True,
) -> Iterator[Feature]:
    """The features of a file on the contigs of a genome, named as the genome names them.

    Args:
        lengths: contig -> length in bases; None if no genome is known yet: then contigs are not checked.
        form: `bed`, `gff` (GFF3), `gtf` or `repeatmasker`; None to find out by the file's name, or else by its first
            line.
        skip_unknown: whether intervals on contigs that the genome lacks are left out; otherwise they are refused.
        may_be_empty: whether a file without an interval is only said on stderr; otherwise it is refused.

    Raises:
        BadInput: no such file; another kind of file; a malformed line; an interval that is empty or not within its
            contig; the file names contigs, but none of the genome.
    """
    form = _form(path, form)
    names: Mapping[str, str] | None = None
    circular: set[str] = set()
    if lengths is not None:
        named: dict[str, list[str]] = {}
        for _, fields in _entries(path, form, lengths):
            named.setdefault(fields[0], fields)
            if form == GFF and _is_circular(fields):
                circular.add(fields[0])
        if not named:
            if not may_be_empty:
                raise BadInput(f"{path}: lists no interval")
            print(f"{path}: lists no interval", file=sys.stderr)
        if named and not match_contigs(named, lengths):
            _refuse_other_column(path, next(iter(named.values())), lengths)
        names = agree_on_contigs(path, named, lengths)
    for number, fields in _entries(path, form, lengths):
        where = f"{path}, line {number}"
        try:
            start, end, kind, name, strand = _PARSERS[form](fields)
        except ValueError as error:
            raise BadInput(f"{where}: {error}") from error
        if names is None or lengths is None:
            yield Feature(fields[0], start, end, kind, name, strand, number)
            continue
        if fields[0] not in names:
            if skip_unknown:
                continue
            raise BadInput(f"{where}: the genome has no contig {fields[0]!r}; its first one is {next(iter(lengths))}")
        contig = names[fields[0]]
        length = lengths[contig]
        if fields[0] in circular and start < length < end:  # GFF3 writes a feature across the origin in this way
            yield Feature(contig, 0, min(end - length, length), kind, name, strand, number)
            end = length
        if end > length:
            raise BadInput(
                f"{where}: {Region(contig, start, end)} is not within {contig}, which has {length:,} bases; is the "
                "file for another assembly?"
            )
        yield Feature(contig, start, end, kind, name, strand, number)


def _refuse_other_column(path: Path, fields: list[str], lengths: Mapping[str, int]) -> None:
    """Refuse a table such as UCSC's rmsk.txt, where another column than the first holds the contigs.

    Raises:
        BadInput: a later field is the name of a contig.
    """
    for column, field in enumerate(fields[1:], 2):
        if field.strip() in lengths and not field.strip().isdecimal():
            raise BadInput(
                f"{path}: column 1 holds {fields[0]}, which is no contig of the genome, but column {column} holds "
                f"{field.strip()}; is this a table of the UCSC browser? keep its columns of contig, start and end"
            )


def _form(path: Path, stated: str | None) -> str:
    """The form of the file, which is `stated`, follows from the file's name, or else from its first line."""
    head = b"" if is_empty(path) else next(read_plain(path), b"")
    form = stated or _FORMS.get(Path(unpacked_name(path)).suffix)
    if (kind := text_kind(head)) and kind not in (_KINDS[form] if form else _KINDS.values()):
        raise wrong_kind(path, head, _KINDS[form] if form else "BED, GFF3, GTF or RepeatMasker's .out")
    if form:
        return form
    for number, line in _lines(path):
        fields = line.split()
        if fields[0] in _HEADER or (len(fields) > 10 and fields[5].isdecimal() and fields[6].isdecimal()):
            return REPEATMASKER
        if len(fields) > 2 and (fields[0].lower() in _COLUMN_NAMES or (fields[1] + fields[2]).isdecimal()):
            return BED
        if len(fields) > 7 and (fields[3] + fields[4]).isdecimal():
            attributes = _ATTRIBUTE.findall(line.split(None, 8)[-1])
            return GFF if any(separator == "=" for _, separator, _ in attributes) else GTF
        raise BadInput(f"{path}, line {number}: not a line of BED, GFF3, GTF or RepeatMasker's .out: {line[:60]!r}")
    return BED


def _entries(path: Path, form: str, lengths: Mapping[str, int] | None) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of every line that lists an interval; the contig is the first field."""
    least, most = _COLUMNS[form]
    first = True
    for number, line in _lines(path, form):
        if line.startswith(">"):
            if form in (GFF, GTF) and not first:
                return
            raise BadInput(
                f"{path}, line {number}: begins with '>' as FASTA does, but lists no interval: {line[:60]!r}"
            )
        fields = line.split("\t")
        if len(fields) < least or form == REPEATMASKER:
            fields = line.split(None, most - 1)
        if form == REPEATMASKER:
            if fields[0] in _HEADER or line.startswith("There were no repetitive"):
                continue
            fields = [*fields[4:5], *fields]
        elif first and form == BED and fields[0].lower() in _COLUMN_NAMES and not any(map(str.isdecimal, fields[1:3])):
            continue
        elif form == GFF and "%" in fields[0] and fields[0] not in (lengths or ()):
            fields[0] = unquote(fields[0])  # GTF has no escapes
        first = False
        if not fields or not fields[0].strip():
            raise BadInput(f"{path}, line {number}: names no contig: {line[:60]!r}")
        fields[0] = fields[0].strip()
        yield number, fields


_Parsed = tuple[int, int, str, str, str]  # start, end, kind, name, strand


def _bed(fields: list[str]) -> _Parsed:
    if len(fields) < 3:
        raise ValueError(f"not `contig start end`: {_text(fields)}")
    start, end = _coordinate(fields[1]), _coordinate(fields[2])
    if start >= end:
        raise ValueError(f"start {start} and end {end}: BED counts from 0 without the end, so no base lies between")
    name = fields[3].strip() if len(fields) > 3 else ""
    return start, end, name, name, _strand(fields[5]) if len(fields) > 5 else "."


def _gff(fields: list[str]) -> _Parsed:
    while len(fields) > 9 and not fields[-1].strip():
        fields.pop()
    if not 8 <= len(fields) <= 9:
        raise ValueError(f"{len(fields)} columns, but GFF and GTF have 8 or 9: {_text(fields)}")
    kind = fields[2].strip()
    return *_from_one(fields[3], fields[4]), kind, _gff_name(fields[8:]) or kind, _strand(fields[6])


def _repeatmasker(fields: list[str]) -> _Parsed:
    fields = fields[1:]
    if len(fields) < 11:
        raise ValueError(f"not a line of RepeatMasker's .out: {_text(fields)}")
    return *_from_one(fields[5], fields[6]), fields[10], fields[9], "-" if fields[8] == "C" else _strand(fields[8])


_PARSERS = {BED: _bed, GFF: _gff, GTF: _gff, REPEATMASKER: _repeatmasker}
# what `text_kind` may say of each
_KINDS = {BED: BED_LINES, GFF: GFF3, GTF: GFF3, REPEATMASKER: REPEATMASKER_OUT}
# least number, and most where blanks separate them
_COLUMNS = {BED: (3, 0), GFF: (8, 9), GTF: (8, 9), REPEATMASKER: (11, 0)}


def _from_one(first: str, last: str) -> tuple[int, int]:
    """0-based start and end of bases that are counted from 1, both included."""
    start, end = _coordinate(first), _coordinate(last)
    if not 1 <= start <= end:
        raise ValueError(f"start {start} and end {end}: bases count from 1, and the start must not exceed the end")
    return start - 1, end


def _coordinate(text: str) -> int:
    return whole_number(text, "a coordinate")


def _strand(text: str) -> str:
    return text.strip() if text.strip() in ("+", "-") else "."


def _gff_name(attributes: list[str]) -> str:
    found: dict[str, tuple[str, str]] = {}
    for key, separator, value in _ATTRIBUTE.findall(attributes[0] if attributes else ""):
        if key in _NAMES:
            found.setdefault(key, (separator, value))
    for key in _NAMES:
        separator, value = found.get(key, ("", ""))
        quoted = len(value) > 1 and value.startswith('"') and value.endswith('"')
        text = value[1:-1] if quoted else value.strip()
        if text:
            return unquote(text) if separator == "=" else text
    return ""


def _is_circular(fields: list[str]) -> bool:
    """Whether a line of GFF3 stands for a whole contig, from base 1 on, and states that the contig is circular."""
    attributes = fields[8] if len(fields) > 8 else ""
    if "Is_circular" not in attributes or fields[3].strip() != "1":
        return False
    return any(found == ("Is_circular", "=", "true") for found in _ATTRIBUTE.findall(attributes.rstrip()))


def _text(fields: list[str]) -> str:
    return repr(" ".join(fields)[:60])


def _lines(path: Path, form: str | None = None) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are neither blank nor a comment, up to the ##FASTA line of GFF3 and GTF."""
    for number, line in enumerate(byte_lines(path, _MAX_LINE_BYTES), 1):
        text = line.decode("utf-8", "backslashreplace")
        if form in (GFF, GTF) and text.startswith("##FASTA"):
            return
        if text.startswith("#") or not text.strip():
            continue
        if text.startswith(_SKIPPED) and text.split(None, 1)[0] in _SKIPPED:
            continue
        yield number, text

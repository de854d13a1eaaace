"""Annotated intervals from BED, GTF/GFF and RepeatMasker .out files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dnachunker.downstream.text_files import UNREADABLE, open_text
from dnachunker.foundations.failures import BadInput

from .regions import Region


@dataclass(frozen=True)
class Feature:
    """Bases [start, end) of a contig, 0-based; `kind` is such as `exon`, `LINE/L1` or a BED name."""

    contig: str
    start: int
    end: int
    kind: str
    name: str
    strand: str


def read_features(path: Path, regions: Sequence[Region] = ()) -> list[Feature]:
    """All features of a file, or only those that overlap one of `regions`.

    Args:
        path: .bed, .gtf, .gff, .gff3 or .out (RepeatMasker's), plain or gzipped. The kind of a feature is column 4 of
            BED, column 3 of GTF and GFF, the class/family of RepeatMasker.

    Raises:
        BadInput: the file has another format, or a malformed line.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    readers = {".bed": _bed, ".gtf": _gff, ".gff": _gff, ".gff3": _gff, ".out": _repeat_masker}
    if suffix not in readers:
        raise BadInput(f"{path}: annotations are read from .bed, .gtf, .gff, .gff3 and RepeatMasker .out files")
    wanted: dict[str, list[Region]] = {}
    for region in regions:
        wanted.setdefault(region.contig, []).append(region)
    found = []
    try:
        with open_text(path) as text:
            for feature in readers[suffix](path, text):
                near = wanted.get(feature.contig, ())
                if not regions or any(feature.start < r.end and r.start < feature.end for r in near):
                    found.append(feature)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except UNREADABLE as error:
        raise BadInput(f"{path}: not readable: {error}") from error
    return found


def _bed(path: Path, text: TextIO) -> Iterator[Feature]:
    for number, line in enumerate(text, 1):
        fields = line.rstrip("\r\n").split("\t")
        if line.startswith(("#", "track", "browser")) or not line.strip():
            continue
        with _line(path, number):
            name = fields[3] if len(fields) > 3 else "interval"
            strand = fields[5] if len(fields) > 5 else "."
            yield Feature(fields[0], int(fields[1]), int(fields[2]), name, name, strand)


def _gff(path: Path, text: TextIO) -> Iterator[Feature]:
    for number, line in enumerate(text, 1):
        if line.startswith("##FASTA"):
            return  # the sequence itself may follow the features of a GFF3 file
        if line.startswith("#") or not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        with _line(path, number):
            contig, _, kind, start, end, _, strand, _, attributes = fields
            yield Feature(contig, int(start) - 1, int(end), kind, _gff_name(attributes) or kind, strand)


def _repeat_masker(path: Path, text: TextIO) -> Iterator[Feature]:
    for number, line in enumerate(text, 1):
        fields = line.split()
        if not fields or not fields[0].isdecimal():  # one of the header's three lines
            continue
        with _line(path, number):
            strand = "-" if fields[8] == "C" else "+"
            yield Feature(fields[4], int(fields[5]) - 1, int(fields[6]), fields[10], fields[9], strand)


def _gff_name(attributes: str) -> str:
    for key in ("gene_name", "Name", "gene", "gene_id", "ID"):
        for part in attributes.split(";"):
            part = part.strip()
            if part.startswith((f"{key} ", f"{key}=")):
                return part[len(key) + 1 :].strip('" ')
    return ""


@contextmanager
def _line(path: Path, number: int) -> Iterator[None]:
    """Turn the error of a malformed line into one message."""
    try:
        yield
    except (ValueError, IndexError) as error:
        raise BadInput(f"{path}: line {number}: too few fields, or a coordinate that is not a number") from error

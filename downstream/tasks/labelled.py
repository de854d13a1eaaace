"""Read labelled sequences in the formats of benchmarks: CSV, TSV, FASTA (label in the header) and parquet."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.contig_names import check_characters
from dnachunker.dataprep.genomes.file_kinds import text_kind, unpacked_name
from dnachunker.dataprep.genomes.input_file import open_input
from dnachunker.dataprep.genomes.text_lines import text_lines
from dnachunker.foundations.failures import BadInput, one_line
from dnachunker.foundations.whole_numbers import whole_number
from dnachunker.model.alphabet import BASES, IUPAC_AMBIGUOUS

_SEQUENCE_COLUMNS = ("sequence", "seq")
_LABEL_COLUMNS = ("label", "labels", "class")
_FASTA = (".fa", ".fna", ".fasta")
SUFFIXES = (".csv", ".tsv", *_FASTA, ".parquet")
_LONGEST_ERROR = 200  # characters
_LONGEST_FIELD = 2**31 - 1  # letters; the default of the csv module, 131,072, is less than a long sequence
_LONGEST_LABEL = 255  # bytes
_MISSING = frozenset(("na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none"))  # as tables spell a missing value
_LETTERS = frozenset(BASES + "N" + IUPAC_AMBIGUOUS + (BASES + "N" + IUPAC_AMBIGUOUS).lower())


@dataclass(frozen=True)
class Labelled:
    """Sequences and their classes.

    Attributes:
        sequences: letters as in the file.
        labels: (n,) int64, indices into `classes`.
        classes: the labels as in the file, sorted (as numbers if all are whole numbers).
    """

    sequences: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, rows: NDArray[np.int64]) -> "Labelled":
        """The given rows, with the same classes."""
        return Labelled(tuple(self.sequences[row] for row in rows), self.labels[rows], self.classes)


def read_labelled(path: Path, classes: Sequence[str] | None = None) -> Labelled:
    """Read one file.

    Args:
        path: .csv or .tsv with the columns `sequence` and `label`, FASTA whose headers end in `|LABEL`, or parquet
            with those columns; text may be compressed with gzip, bgzip or zstd.
        classes: the classes of the training data; default: the labels of this file.

    Raises:
        BadInput: not such a file; a row of more or fewer fields than the header; a sequence that is missing or holds
            other letters; a label that is missing, unprintable or not among `classes`; labels that are no classes,
            since most of them occur once.
    """
    sequences: list[str] = []
    spelled: list[str] = []
    known = None if classes is None else set(classes)
    for where, sequence, label in _rows(path):
        sequence, label = sequence.strip(), label.strip()
        if not sequence or not _LETTERS.issuperset(sequence):
            strange = sorted(set(sequence) - _LETTERS)
            found = f"holds {strange[0]!r}, which is not a nucleotide letter" if strange else "is empty"
            raise BadInput(f"{path}: {where}: the sequence {found}")
        if sequence.lower() in _MISSING:
            raise BadInput(f"{path}: {where}: the sequence is {sequence!r}, a missing value; remove the row")
        try:
            _check_label(label)
        except ValueError as error:
            raise BadInput(f"{path}: {where}: {error}") from error
        if known is not None and label not in known:
            raise BadInput(f"{path}: {where}: label {label!r} does not occur in training, which has {sorted(known)}")
        sequences.append(sequence)
        spelled.append(label)
    if not sequences:
        raise BadInput(f"{path}: holds no sequences")
    names = tuple(classes) if classes is not None else sort_classes(set(spelled))
    counts = Counter(spelled)
    once = [name for name in names if counts[name] == 1]
    if classes is None and len(names) > 2 and 2 * len(once) > len(names):
        raise BadInput(
            f"{path}: of {len(names):,} different labels, {len(once):,} occur once, such as {once[0]}; only classes "
            "can be learned, not numbers (regression): group the labels into classes"
        )
    index = {name: number for number, name in enumerate(names)}
    return Labelled(tuple(sequences), np.array([index[label] for label in spelled], np.int64), names)


def join(parts: Sequence[Labelled]) -> Labelled:
    """Join several parts of one task."""
    classes = sort_classes({name for part in parts for name in part.classes})
    index = {name: number for number, name in enumerate(classes)}
    labels = [np.array([index[name] for name in part.classes], np.int64)[part.labels] for part in parts]
    return Labelled(tuple(s for part in parts for s in part.sequences), np.concatenate(labels), classes)


def sort_classes(names: set[str]) -> tuple[str, ...]:
    """Labels in order: as numbers if all are whole numbers, else as text."""
    try:
        return tuple(sorted(names, key=lambda name: (whole_number(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _check_label(label: str) -> None:
    """Check that a label can be the name of a class.

    Raises:
        ValueError: it cannot.
    """
    if not label:
        raise ValueError("has no label")
    if label.lower() in _MISSING:
        raise ValueError(f"the label is {label!r}, a missing value; remove the row, or rename the class")
    if len(label.encode()) > _LONGEST_LABEL:
        raise ValueError(f"a label of {len(label):,} letters: {label[:40]!r}...; is this the column of labels?")
    if label.isdecimal() and not label.isascii():
        raise ValueError(f"the label {label!r} is a number in other digits than 0 to 9; write it with these")
    check_characters(label)


def data_suffix(path: Path) -> str | None:
    """The ending of a data file, such as `.csv` of `train.csv.gz`; None for other files."""
    name = unpacked_name(path)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, sequence, label) of each row; `where` names the row in messages."""
    suffix = data_suffix(path)
    if suffix is None:
        raise BadInput(f"{path}: not a data file; readable are {', '.join(SUFFIXES)}; text also with .gz, .bgz or .zst")
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix in _FASTA:
        yield from _fasta_rows(path, text_lines(path))
    else:
        yield from _table_rows(path, text_lines(path), suffix)


def _table_rows(path: Path, text: Iterable[str], suffix: str) -> Iterator[tuple[str, str, str]]:
    csv.field_size_limit(_LONGEST_FIELD)
    delimiter = "\t" if suffix == ".tsv" else ","
    table = csv.reader((f"{line}\n" for line in text), delimiter=delimiter)
    try:
        names = next(table, [])
        if len(names) == 1:
            _refuse_header(path, names[0], delimiter)
        sequence, label = _columns(path, names)
        for row in table:
            if not "".join(row).strip():
                continue
            if row[-1].endswith("\n"):
                raise BadInput(f"{path}: a quote is not closed before the end of the file, line {table.line_num}")
            if len(row) != len(names):
                raise BadInput(f"{path}: line {table.line_num}: {len(row)} fields, but the header has {len(names)}")
            yield f"line {table.line_num}", row[sequence], row[label]
    except csv.Error as error:
        raise BadInput(f"{path}: line {table.line_num}: not readable: {error}") from error


def _refuse_header(path: Path, header: str, delimiter: str) -> None:
    """Raise an error that says why a header has one column, where that can be seen."""
    if kind := text_kind(header.encode()):
        raise BadInput(f"{path}: {kind}, not a table with the columns sequence and label")
    for other, remedy in ((";", "write commas"), ("\t", "name the file .tsv"), (",", "name the file .csv")):
        if other != delimiter and other in header:
            raise BadInput(f"{path}: {other!r} separates its columns, where {delimiter!r} is expected; {remedy}")


def _fasta_rows(path: Path, text: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    where, label = "", ""
    parts: list[str] = []
    for number, line in enumerate(text, 1):
        line = line.strip()
        if line.startswith(">"):
            if where:
                yield where, "".join(parts), label
            where, parts = f"line {number}", []
            _, bar, label = line.rpartition("|")
            if not bar or not label:
                raise BadInput(f"{path}: {where}: the header {line[:60]!r} does not end in |LABEL")
        elif where:
            parts.append(line)
        elif line:
            raise BadInput(f"{path}: line {number}: FASTA starts with a header, a line that begins with '>'")
    if where:
        yield where, "".join(parts), label


def _parquet_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_input(path) as handle, pq.ParquetFile(handle, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            columns = [schema.field(at) for at in _columns(path, schema.names)]
            for column, accepted in zip(columns, (_is_text, lambda kind: not pa.types.is_nested(kind)), strict=True):
                if not accepted(column.type):
                    raise BadInput(f"{path}: column {column.name!r} holds {column.type}, not text")
            row = 0
            for batch in file.iter_batches(columns=[column.name for column in columns]):
                for letters, value in zip(*(batch.column(column.name).to_pylist() for column in columns), strict=True):
                    row += 1
                    missing = value is None or value != value  # some writers store a missing value as NaN
                    yield f"row {row}", letters or "", "" if missing else str(value)
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged page raises any of these
        raise BadInput(f"{path}: not readable as parquet: {one_line(error)[:_LONGEST_ERROR]}") from error


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _columns(path: Path, names: Sequence[str]) -> tuple[int, int]:
    """Numbers of the columns of sequences and of labels."""
    found = []
    for kind in (_SEQUENCE_COLUMNS, _LABEL_COLUMNS):
        columns = [number for number, name in enumerate(names) if name.strip().lower() in kind]
        shown = ", ".join(map(repr, names))[:_LONGEST_ERROR] or "none"
        if not columns:
            raise BadInput(f"{path}: has no column {kind[0]!r}; it has {shown}")
        if len(columns) > 1:
            raise BadInput(f"{path}: several columns could be {kind[0]!r}; keep one; it has {shown}")
        found += columns
    return found[0], found[1]

"""Read labelled sequences in the formats of benchmarks: CSV, TSV, FASTA (label in the header) and parquet."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.downstream.text_files import text_lines
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import BASES, IUPAC_AMBIGUOUS

_SEQUENCE_COLUMNS = ("sequence", "seq")
_LABEL_COLUMNS = ("label", "labels", "class")
_FASTA = (".fa", ".fna", ".fasta")
SUFFIXES = (".csv", ".tsv", *_FASTA, ".parquet")
_LONGEST_FIELD = 2**31 - 1  # letters; the default of the csv module, 131,072, is less than a long sequence
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
            with those columns; text may be gzipped.
        classes: the classes of the training data; default: the labels of this file.

    Raises:
        BadInput: not such a file; an empty or non-nucleotide sequence; a label that is missing or not among `classes`;
            labels that are no classes, since most of them occur once.
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
        if not label:
            raise BadInput(f"{path}: {where}: has no label")
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
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))


def data_suffix(path: Path) -> str | None:
    """The ending of a data file, such as `.csv` of `train.csv.gz`; None for other files."""
    name = path.name.removesuffix(".gz").lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, sequence, label) of each row; `where` names the row in messages."""
    suffix = data_suffix(path)
    if suffix is None:
        raise BadInput(f"{path}: not a data file; readable formats are {', '.join(SUFFIXES)}, plain or gzipped")
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix in _FASTA:
        yield from _fasta_rows(path, text_lines(path))
    else:
        yield from _table_rows(path, text_lines(path), suffix)


def _table_rows(path: Path, text: Iterable[str], suffix: str) -> Iterator[tuple[str, str, str]]:
    csv.field_size_limit(_LONGEST_FIELD)
    table = csv.DictReader((f"{line}\n" for line in text), delimiter="\t" if suffix == ".tsv" else ",")
    try:
        sequence, label = _columns(path, table.fieldnames or [])
        for row in table:
            yield f"line {table.line_num}", row[sequence] or "", row[label] or ""
    except csv.Error as error:
        raise BadInput(f"{path}: line {table.line_num}: not readable: {error}") from error


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
        file = pq.ParquetFile(path)
        sequence, label = _columns(path, file.schema_arrow.names)
        row = 0
        for batch in file.iter_batches(columns=[sequence, label]):
            for letters, value in zip(batch.column(sequence).to_pylist(), batch.column(label).to_pylist(), strict=True):
                row += 1
                missing = value is None or value != value  # some writers store a missing value as NaN
                yield f"row {row}", letters or "", "" if missing else str(value)
    except pa.ArrowException as error:
        raise BadInput(f"{path}: not readable as parquet: {error}") from error


def _columns(path: Path, names: Sequence[Any]) -> tuple[str, str]:
    found = []
    for kind in (_SEQUENCE_COLUMNS, _LABEL_COLUMNS):
        column = next((name for name in names if str(name).strip().lower() in kind), None)
        if column is None:
            raise BadInput(f"{path}: has no column {kind[0]!r}; it has {', '.join(map(str, names)) or 'none'}")
        found.append(str(column))
    return found[0], found[1]

"""Variants with labels: reads a VCF with its INFO fields, or a table (TSV, CSV, parquet), and decides who is positive.

A column of a VCF is `INFO/KEY`, `ID`, `QUAL` or `FILTER`; a column of a table has its own name.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dnachunker.dataprep.genomes.contig_names import check_characters
from dnachunker.dataprep.genomes.file_kinds import unpacked_name
from dnachunker.dataprep.genomes.input_file import open_input
from dnachunker.dataprep.genomes.text_lines import text_lines
from dnachunker.foundations.failures import BadInput, one_line
from dnachunker.foundations.whole_numbers import whole_number

from .variant_files import VariantLines

_MISSING = frozenset(("", ".", "na", "n/a", "nan", "null", "none"))
_CONDITION = re.compile(r"([^<>=]+)(<=|>=|=|<|>)(.+)")
_PLACES = (  # columns of a table that say which variant it is
    ("chrom", "chr", "chromosome", "contig"),
    ("pos", "position"),
    ("ref", "reference"),
    ("alt", "alternate", "alternative"),
)
_SHOWN = 8  # names or values in a message
_LONGEST_ERROR = 200  # characters


@dataclass(frozen=True)
class Row:
    """One alternative allele.

    Attributes:
        where: line or row, for messages.
        fields: CHROM, POS, ID, REF, ALT, as in a VCF.
        values: text of the columns that were asked for; a missing value is left out.
    """

    where: str
    fields: tuple[str, str, str, str, str]
    values: Mapping[str, str]


@dataclass(frozen=True)
class Condition:
    """A condition on a column: `=` with a list of values between commas, or a comparison with a number."""

    column: str
    operator: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, argument: str) -> "Condition":
        """Parse `COLUMN=VALUE,VALUE`, `COLUMN<NUMBER`, `COLUMN>=NUMBER` and the like.

        Raises:
            BadInput: the text is something else; `argument` is named.
        """
        found = _CONDITION.fullmatch(text.strip())
        if not found:
            raise BadInput(f"{argument} {text!r}: not a condition such as INFO/CLS=LOF or P-Value<1e-5")
        column, operator, right = (part.strip() for part in found.groups())
        values = tuple(part.strip() for part in right.split(",")) if operator == "=" else (right,)
        if operator != "=" and _number(right) is None:
            raise BadInput(f"{argument} {text!r}: {right!r} is not a number")
        return cls(column, operator, values)

    def holds(self, value: str) -> bool:
        """Whether the condition holds for the text of a value.

        Raises:
            ValueError: the value is not a number, and a number is compared.
        """
        if self.operator == "=":
            return value in self.values
        ours, theirs = _number(value), float(self.values[0])
        if ours is None:
            raise ValueError(f"{self.column} is {value[:40]!r}, not a number")
        return {"<": ours < theirs, ">": ours > theirs, "<=": ours <= theirs, ">=": ours >= theirs}[self.operator]


@dataclass(frozen=True)
class Label:
    """Which variants are positive, and which negative: all others, or those of the named values.

    Attributes:
        text: as it was written.
    """

    text: str
    positive: Condition
    negatives: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Label":
        """Parse `INFO/CLS=LOF`, `INFO/CLS=LOF:FUNC,INT` (the values after the colon are negative) or `P<0.01`.

        Raises:
            BadInput: the text is something else.
        """
        left, _, right = text.partition(":")
        negatives = tuple(part.strip() for part in right.split(",") if part.strip())
        positive = Condition.parse(left, "--label")
        if ":" in text and (not negatives or positive.operator != "=" or set(negatives) & set(positive.values)):
            raise BadInput(f"--label {text!r}: name the negative values after the colon: INFO/CLS=LOF:FUNC")
        return cls(text, positive, negatives)

    def of(self, row: Row) -> bool | None:
        """True for a positive, False for a negative, None for a variant that is neither or has no value.

        Raises:
            ValueError: as `Condition.holds`.
        """
        value = row.values.get(self.positive.column)
        if value is None:
            return None
        if self.positive.holds(value):
            return True
        return False if not self.negatives or value in self.negatives else None


def read_variants(path: Path, columns: Sequence[str]) -> list[Row]:
    """The alternative alleles of a VCF, BCF, or of a table with the columns chrom, pos, ref and alt.

    Args:
        columns: to read; at a line with several ALTs, a list of as many values has one for each.

    Raises:
        BadInput: no such file, a malformed line, or a column that does not occur.
    """
    suffix = Path(unpacked_name(path)).suffix
    seen: dict[str, None] = {}
    if suffix == ".parquet":
        rows = list(_parquet_rows(path, columns, seen))
    elif suffix in (".tsv", ".csv"):
        rows = list(_table_rows(path, "\t" if suffix == ".tsv" else ",", columns, seen))
    else:
        rows = list(_vcf_rows(path, columns, seen))
    if not rows:
        raise BadInput(f"{path}: holds no variants")
    for column in columns:
        if column not in seen:
            more = ", ..." if len(seen) > _SHOWN else ""
            raise BadInput(f"{path}: no column {column!r}; it has {', '.join(list(seen)[:_SHOWN])}{more}")
    return rows


def numbers_of(path: Path, rows: Sequence[Row], column: str) -> list[float]:
    """The numbers in a column; NaN where a value is missing.

    Raises:
        BadInput: a value is not a number.
    """
    found = []
    for row in rows:
        text = row.values.get(column, "nan")
        number = _number(text)
        if number is None:
            raise BadInput(f"{path}: {row.where}: {column} is {text[:40]!r}, not a number; name another column")
        found.append(number)
    return found


def describe_values(rows: Sequence[Row], column: str) -> str:
    """The values of a column and how often each occurs, for a message."""
    counts = Counter(row.values.get(column, "missing") for row in rows).most_common(_SHOWN + 1)
    shown = ", ".join(f"{value[:40]} ({count:,})" for value, count in counts[:_SHOWN])
    return shown + (", ..." if len(counts) > _SHOWN else "")


def _number(text: str) -> float | None:
    if not text.isascii() or "_" in text:  # `float` takes digits of every script
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _known(columns: Sequence[str], values: Mapping[str, str]) -> dict[str, str]:
    found = ((column, values.get(column, "").strip()) for column in columns)
    return {column: value for column, value in found if value.lower() not in _MISSING}


def _vcf_rows(path: Path, columns: Sequence[str], seen: dict[str, None]) -> Iterator[Row]:
    with VariantLines(path) as variants:
        for number, fields in variants.records():
            values = {"ID": fields[2], "QUAL": fields[5], "FILTER": fields[6]}
            for item in fields[7].split(";"):
                key, equals, value = item.partition("=")
                values[f"INFO/{key}"] = value if equals else "1"  # a flag
            seen |= dict.fromkeys(values)
            alts = fields[4].split(",")
            lists = {name: text.split(",") for name, text in values.items() if len(alts) > 1}
            for place, alt in enumerate(alts):
                ours = values | {name: parts[place] for name, parts in lists.items() if len(parts) == len(alts)}
                yield Row(f"line {number}", (*fields[:4], alt), _known(columns, ours))  # type: ignore[arg-type]


def _table_rows(path: Path, delimiter: str, columns: Sequence[str], seen: dict[str, None]) -> Iterator[Row]:
    table = csv.reader((f"{line}\n" for line in text_lines(path)), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(table, [])]
        places = _places(path, names)
        seen |= dict.fromkeys(names)
        for line in table:
            if "".join(line).strip():
                if len(line) != len(names):
                    count = f"{len(line)} fields, but the header has {len(names)}"
                    raise BadInput(f"{path}: line {table.line_num}: {count}")
                yield _row(path, f"line {table.line_num}", dict(zip(names, line, strict=True)), places, columns)
    except csv.Error as error:
        raise BadInput(f"{path}: line {table.line_num}: not readable: {error}") from error


def _parquet_rows(path: Path, columns: Sequence[str], seen: dict[str, None]) -> Iterator[Row]:
    try:
        with open_input(path) as handle, pq.ParquetFile(handle) as file:
            names = file.schema_arrow.names
            places = _places(path, names)
            seen |= dict.fromkeys(names)
            wanted = list(dict.fromkeys([*places, *(column for column in columns if column in names)]))
            number = 0
            for batch in file.iter_batches(columns=wanted):
                for values in batch.to_pylist():
                    number += 1
                    texts = {name: "" if value is None else str(value) for name, value in values.items()}
                    yield _row(path, f"row {number}", texts, places, columns)
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged page raises any of these
        raise BadInput(f"{path}: not readable as parquet: {one_line(error)[:_LONGEST_ERROR]}") from error


def _places(path: Path, names: Sequence[str]) -> list[str]:
    """The names of the columns of contig, position, reference and alternative."""
    found = []
    for accepted in _PLACES:
        ours = [name for name in names if name.strip().lower().lstrip("#") in accepted]
        if len(ours) != 1:
            shown = ", ".join(map(repr, names))[:_LONGEST_ERROR] or "none"
            raise BadInput(f"{path}: needs one column {accepted[0]!r}; it has {shown}")
        found += ours
    return found


def _row(path: Path, where: str, values: Mapping[str, str], places: Sequence[str], columns: Sequence[str]) -> Row:
    contig, position, reference, alternative = (values[name].strip() for name in places)
    try:
        whole_number(position, "a position")
        check_characters(contig)
        if not contig or not reference:
            raise ValueError("contig or reference is empty")
    except ValueError as error:
        raise BadInput(f"{path}: {where}: {error}") from error
    return Row(where, (contig, position, ".", reference, alternative), _known(columns, values))

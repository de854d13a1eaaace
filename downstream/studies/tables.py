"""The table of a study, written as Markdown for people and as CSV for programs."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnachunker.foundations.atomic_files import write_text

Row = Mapping[str, Any]


def write_study(folder: Path, title: str, rows: Sequence[Row], figure: str, notes: Sequence[str]) -> None:
    """Write table.csv, table.md and figure.svg.

    Args:
        rows: all with the same columns in the same order.
        figure: SVG text.
    """
    rows = with_corrected(rows)
    header = list(rows[0])
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(header)
    out.writerows([_exact(row[name]) for name in header] for row in rows)
    write_text(folder / "table.csv", text.getvalue())
    lines = [f"# {title}", "", "| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    lines += ["| " + " | ".join(_short(row[name]) for name in header) + " |" for row in rows]
    lines += ["", "![figure](figure.svg)", "", *(f"- {note}" for note in notes), ""]
    write_text(folder / "table.md", "\n".join(lines))
    write_text(folder / "figure.svg", figure)


def with_corrected(rows: Sequence[Row]) -> Sequence[Row]:
    """Add after each `p` the p-value corrected for the number of rows: Holm's method (1979), for any dependence."""
    if "p" not in rows[0]:
        return rows
    order = sorted(range(len(rows)), key=lambda number: rows[number]["p"])
    corrected, least = [0.0] * len(rows), 0.0
    for rank, number in enumerate(order):
        least = corrected[number] = min(1.0, max(least, (len(rows) - rank) * rows[number]["p"]))
    added = zip(rows, corrected, strict=True)
    return [
        {
            key: value
            for name in row
            for key, value in [(name, row[name]), *([("p corrected", p)] if name == "p" else [])]
        }
        for row, p in added
    ]


def _exact(value: Any) -> Any:
    return repr(round(value, 8)) if isinstance(value, float) else value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 0.01 and value else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

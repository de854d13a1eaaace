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


def _exact(value: Any) -> Any:
    return repr(round(value, 8)) if isinstance(value, float) else value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 0.01 and value else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

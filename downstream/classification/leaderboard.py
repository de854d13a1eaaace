"""Write results as a table in Markdown, CSV and HTML; published rows look different from measured ones."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape

from dnachunker.downstream.tasks.metrics import NAMES
from dnachunker.downstream.tasks.task_folders import Published, Suite
from dnachunker.foundations.atomic_files import write_text

_TITLES = {"mcc": "MCC", "f1": "F1", "accuracy": "accuracy", "auroc": "AUROC", "auprc": "AUPRC"}
NOT_OURS = "published, not measured here"


@dataclass(frozen=True)
class Row:
    """The scores of one method on one task.

    Attributes:
        scores: by metric, the test score of each seed.
        interval: 95 % bootstrap interval of the headline metric.
        setting: the chosen setting, as text for the table.
    """

    task: str
    method: str
    metric: str
    scores: Mapping[str, Sequence[float]]
    interval: tuple[float, float]
    test_sequences: int
    setting: str


def write_tables(folder: Path, suite: Suite, rows: Sequence[Row], notes: Sequence[str]) -> list[Path]:
    """Write table.md, table.csv and table.html into `folder`; returns their paths."""
    header, body = _cells(suite, rows)
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(("html",)))
    page = environment.get_template("table.html").render(
        title=suite.title, header=header, body=body, notes=notes, not_ours=NOT_OURS
    )
    written = {"table.md": _markdown(suite, header, body, notes), "table.csv": _csv(suite, rows), "table.html": page}
    for name, text in written.items():
        write_text(folder / name, text)
    return [folder / name for name in written]


def averages(rows: Sequence[Row]) -> dict[str, tuple[str, float, int]]:
    """By method: the metric, its mean over tasks of the mean over seeds, and the number of tasks."""
    found: dict[str, tuple[str, float, int]] = {}
    for method in dict.fromkeys(row.method for row in rows):
        ours = [row for row in rows if row.method == method]
        metrics = {row.metric for row in ours}
        if len(metrics) == 1:
            found[method] = (ours[0].metric, float(np.mean([np.mean(r.scores[r.metric]) for r in ours])), len(ours))
    return found


def _cells(suite: Suite, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    headline = _TITLES[suite.metric]
    others = [name for name in NAMES if name != suite.metric]
    header = ["task", "method", headline, "95 % interval", *(_TITLES[name] for name in others), "test", "setting"]
    body = []
    for row in rows:
        interval = f"{row.interval[0]:.3f} to {row.interval[1]:.3f}"
        numbers = [_mean_sd(row.scores[name]) for name in others]
        main = _mean_sd(row.scores[suite.metric])
        body.append([row.task, row.method, main, interval, *numbers, f"{row.test_sequences:,}", row.setting])
    empty = [""] * (len(header) - 3)
    if len({row.task for row in rows}) > 1:
        for method, (_, value, count) in averages(rows).items():
            body.append([f"average of {count}", method, f"{value:.3f}", *empty])
    for other in suite.published:
        body.append(["average", other.model, f"{other.average:.3f}", *empty[:-1], _origin(other)])
    return header, body


def _markdown(suite: Suite, header: list[str], body: list[list[str]], notes: Sequence[str]) -> str:
    lines = [f"# {suite.title}", "", "| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    for cells in body:
        mark = "*" if NOT_OURS in cells[-1] else ""  # italics, as in table.html
        shown = [f"{mark}{cell}{mark}" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in shown) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _csv(suite: Suite, rows: Sequence[Row]) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    spread = [f"{name}_{part}" for name in NAMES for part in ("mean", "sd")]
    out.writerow(["suite", "task", "method", "origin", "headline", "low", "high", *spread, "seeds", "test", "setting"])
    for row in rows:
        numbers = [_plain(value) for name in NAMES for value in _moments(row.scores[name])]
        ends = [_plain(value) for value in row.interval]
        seeds = len(row.scores[row.metric])
        out.writerow([suite.name, row.task, row.method, "measured", row.metric, *ends, *numbers, seeds,
                      row.test_sequences, row.setting])  # fmt: skip
    for other in suite.published:
        numbers = [
            _plain(other.average) if name == suite.metric and part == "mean" else ""
            for name in NAMES for part in ("mean", "sd")
        ]  # fmt: skip
        out.writerow([suite.name, "average", other.model, _origin(other), suite.metric, "", "", *numbers, "", "", ""])
    return text.getvalue()


def _moments(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _mean_sd(values: Sequence[float]) -> str:
    mean, sd = _moments(values)
    if math.isnan(mean):
        return "undefined"
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else repr(round(value, 6))


def _origin(other: Published) -> str:
    return f"{NOT_OURS}: {other.source}"

"""Cells as one table: mean ± standard deviation over seeds, in Markdown and CSV, and every cell's raw numbers."""

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from downstream.output_folder import write_text

from .cells import FAILURE, Cell
from .config import SweepConfig

TABLE, TABLE_CSV, CELLS_CSV = "table.md", "table.csv", "cells.csv"


@dataclass(frozen=True)
class Column:
    """How a metric is shown: title, format, and what its number is divided by."""

    title: str
    digits: str = ".4f"
    unit: float = 1.0

    def show(self, value: float) -> str:
        return format(value / self.unit, self.digits)


COLUMNS = {
    "masked_loss": Column("[MASK] loss"),
    "trunk_masked": Column("trunk, masked (of L)", ".3f"),
    "trunk_unmasked": Column("trunk, unmasked (of L)", ".3f"),
    "masked_stage0": Column("stage 0, masked", ".3f"),
    "masked_stage1": Column("stage 1, masked", ".3f"),
    "unmasked_stage0": Column("stage 0, unmasked", ".3f"),
    "unmasked_stage1": Column("stage 1, unmasked", ".3f"),
    "forced_share_stage0": Column("forced, stage 0", ".2f"),
    "trunk_mean_cost": Column("trunk by its mean costs", "+.4f"),
    "bases_per_second": Column("kb/s", ",.1f", 1e3),
    "peak_memory_gb": Column("peak memory, GB", ".2f"),
    "parameters": Column("parameters, M", ".2f", 1e6),
    "flops_per_base": Column("MFLOP a base", ".2f", 1e6),
    "flops": Column("TFLOP spent", ",.1f", 1e12),
}
_ANY = Column("", ".3f")
_HIDDEN = ("order", "masked_accuracy", "repeat_loss", "unique_loss", "steps", "bases", "trunk_shuffle", "shift_overlap")


@dataclass
class Row:
    """A row of the sweep: the results of its finished cells by seed, and what became of the others."""

    name: str
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        found = [result["metrics"].get(metric) for result in self.results.values()]
        return [value for value in found if value is not None and not math.isnan(value)]

    def moments(self, metric: str) -> tuple[float, float, int]:
        """Mean, standard deviation (n - 1; NaN for one) and number of seeds."""
        values = self.values(metric)
        mean = statistics.fmean(values) if values else math.nan
        return mean, statistics.stdev(values) if len(values) > 1 else math.nan, len(values)

    def differences(self, reference: "Row", metric: str) -> list[float]:
        """This row minus the reference, seed by seed: what the two share, such as the order of windows, cancels."""
        mine, others = ({s: r["metrics"].get(metric) for s, r in row.results.items()} for row in (self, reference))
        pairs = [(mine[seed], others[seed]) for seed in mine if seed in others]
        return [a - b for a, b in pairs if a is not None and b is not None]

    @property
    def warnings(self) -> dict[str, int]:
        found = [name for result in self.results.values() for name in result["warnings"]]
        return {name: found.count(name) for name in sorted(set(found))}


def collect(cells: Sequence[Cell]) -> list[Row]:
    """What is on disk, row by row."""
    rows: dict[str, Row] = {}
    for cell in cells:
        row = rows.setdefault(cell.row, Row(cell.row))
        if cell.is_finished():
            row.results[cell.seed] = json.loads(cell.result.read_text("utf-8"))
        elif (cell.folder / FAILURE).is_file():
            row.failures[cell.seed] = json.loads((cell.folder / FAILURE).read_text("utf-8"))["reason"]
        else:
            row.missing.append(cell.seed)
    return list(rows.values())


def write_tables(output: Path, sweep: SweepConfig, rows: Sequence[Row]) -> list[Path]:
    """Write table.md, table.csv and cells.csv; returns their paths."""
    texts = {TABLE: markdown(sweep, rows), TABLE_CSV: _table_csv(rows), CELLS_CSV: _cells_csv(rows)}
    for name, text in texts.items():
        write_text(output / name, text)
    return [output / name for name in texts]


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Every metric that some cell has: known ones in their order, then the others as they come."""
    found = {metric: None for row in rows for result in row.results.values() for metric in result["metrics"]}
    return [*(name for name in COLUMNS if name in found), *(name for name in found if name not in COLUMNS)]


def shown_metrics(rows: Sequence[Row]) -> list[str]:
    """Those of the Markdown table and the page; cells.csv and table.csv have all."""

    def shown(name: str) -> bool:
        if name.startswith("probe."):
            return name.endswith(".mcc")
        if name.startswith("species."):
            return name.endswith(".masked_loss")
        return not name.startswith(_HIDDEN)

    return [name for name in metrics_of(rows) if shown(name)]


def title_of(metric: str) -> str:
    """A column's heading."""
    if metric in COLUMNS:
        return COLUMNS[metric].title
    if metric.startswith("probe."):
        return metric.removeprefix("probe.").removesuffix(".mcc") + ", MCC"
    if metric.startswith("species."):
        return metric.removeprefix("species.").removesuffix(".masked_loss") + ", [MASK] loss"
    return metric.replace(".", " ")


def body(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table for people."""
    metrics = shown_metrics(rows)
    reference = rows[0] if rows else None
    header = ["", "n", *map(title_of, metrics), "warnings"]
    if len(rows) > 1 and reference:
        header.insert(3, f"less {reference.name}'s, by seed")
    lines = []
    for row in rows:
        cells = [row.name, str(len(row.results)), *(_shown(metric, row.moments(metric)) for metric in metrics)]
        if len(rows) > 1 and reference:
            pairs = row.differences(reference, "masked_loss") if row is not reference else []
            cells.insert(3, _mean_sd(pairs, "+.4f"))
        told = [f"{name} {count}/{len(row.results)}" for name, count in row.warnings.items()]
        lines.append([*cells, ", ".join(told) or ("none" if row.results else "")])
    return header, lines


def notes(sweep: SweepConfig, rows: Sequence[Row]) -> list[str]:
    """What a reader must know about the table."""
    scale, finished = sweep.chosen, [result for row in rows for result in row.results.values()]
    spent = scale.budget
    told = [f"Scale `{sweep.scale}`: preset {scale.preset}, {_budget(spent.bases, spent.flops)} a cell, "
            f"seeds {', '.join(map(str, sweep.seeds))}. Mean ± standard deviation over n seeds (n − 1)."]  # fmt: skip
    if finished:
        means = {o: statistics.fmean(r["metrics"][f"order{o}_loss"] for r in finished) for o in (0, 3, 5)}
        baselines = ", ".join(f"order {order} {value:.4f}" for order, value in means.items())
        told.append(f"[MASK] loss in nats, held out. Markov tables on the same positions: {baselines}; uniform 1.3863.")
    for row in rows:
        told += [f"FAILED: {row.name}, seed {seed}: {reason}" for seed, reason in row.failures.items()]
        if row.missing:
            told.append(f"Not run yet: {row.name}, seeds {', '.join(map(str, row.missing))}.")
    return told


def markdown(sweep: SweepConfig, rows: Sequence[Row]) -> str:
    header, lines = body(rows)
    table = [_line(header), _line(["---", *["---:"] * (len(header) - 1)]), *map(_line, lines)]
    told = [f"- {_cell_text(note)}" for note in notes(sweep, rows)]
    return "\n".join([f"# {sweep.name}", "", sweep.question.strip(), "", *table, "", *told, ""])


def _budget(bases: int | None, flops: float | None) -> str:
    return f"{bases:,} bases" if bases is not None else f"{flops:.3g} model FLOPs"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell_text, cells)) + " |"


def _cell_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _shown(metric: str, moments: tuple[float, float, int]) -> str:
    mean, spread, count = moments
    column = COLUMNS.get(metric, _ANY)
    if not count:
        return ""
    return column.show(mean) if math.isnan(spread) else f"{column.show(mean)} ± {column.show(spread).lstrip('+')}"


def _mean_sd(values: Sequence[float], digits: str) -> str:
    if not values:
        return ""
    mean = format(statistics.fmean(values), digits)
    return f"{mean} ± {format(statistics.stdev(values), digits.lstrip('+'))}" if len(values) > 1 else mean


def _table_csv(rows: Sequence[Row]) -> str:
    metrics = metrics_of(rows)
    header = ["row", "seeds", "failed", "missing", *(f"{m}_{part}" for m in metrics for part in ("mean", "sd"))]
    lines = [
        [row.name, len(row.results), len(row.failures), len(row.missing),
         *(_plain(value) for metric in metrics for value in row.moments(metric)[:2])]
        for row in rows
    ]  # fmt: skip
    return _csv(header, lines)


def _cells_csv(rows: Sequence[Row]) -> str:
    metrics = metrics_of(rows)
    lines = [
        [row.name, seed, *(_plain(result["metrics"].get(metric, math.nan)) for metric in metrics),
         " ".join(result["warnings"])]
        for row in rows for seed, result in row.results.items()
    ]  # fmt: skip
    return _csv(["row", "seed", *metrics, "warnings"], lines)


def _csv(header: Sequence[object], lines: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(header)
    out.writerows(lines)
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(round(value, 9))

"""Cells as one table: mean ± standard deviation over seeds, in Markdown and CSV, and every cell's raw numbers."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dnachunker.experiments.config import SweepConfig
from dnachunker.foundations.atomic_files import write_text
from dnachunker.pretrain.data.headline import MASKED, NEXT_BASE, stages_of

from .rows import Row, headline, shared_baselines

TABLE, TABLE_CSV, CELLS_CSV = "table.md", "table.csv", "cells.csv"


@dataclass(frozen=True)
class Column:
    """How a metric is shown: title, format, and what its number is divided by."""

    title: str
    digits: str = ".4f"
    unit: float = 1.0

    def show(self, value: float) -> str:
        return format(value / self.unit, self.digits).rstrip(".")


_RESULTS = {
    "masked_loss": Column("[MASK] loss"),
    "next_base_loss": Column("next-base loss"),
    "trunk_masked": Column("trunk, masked (of L)", ".3f"),
    "trunk_unmasked": Column("trunk, unmasked (of L)", ".3f"),
    "trunk_mean_cost": Column("trunk by its mean costs", "+.4f"),
}
# Of metrics named `masked_stage0` and so on; a stage's number completes the title.
_BY_STAGE = {
    "masked": Column("stage {}, masked", ".3f"),
    "unmasked": Column("stage {}, unmasked", ".3f"),
    "forced_share": Column("forced, stage {}", ".2f"),
}
_COSTS = {
    "bases_per_second": Column("kb/s", ",.1f", 1e3),
    "peak_memory_gb": Column("peak memory, GB", ".2f"),
    "parameters": Column("parameters, M", ".2f", 1e6),
    "flops_per_base": Column("MFLOP a base", ".2f", 1e6),
    "flops": Column("TFLOP spent", ",.1f", 1e12),
}
_SPECIES = {f".{found.key}_loss": f"{found.title} loss" for found in (MASKED, NEXT_BASE)}
_SHARE, _ANY = Column("", ".3f"), Column("", "#.3g")
# only in the CSV files
_HIDDEN = {
    "order0_loss", "order3_loss", "order5_loss", "masked_accuracy", "next_base_accuracy", "repeat_loss", "unique_loss",
    "steps", "bases", "trunk_shuffle_cost",
}  # fmt: skip
_HIDDEN_BY_STAGE = "shift_overlap_stage"


def write_tables(output: Path, sweep: SweepConfig, rows: Sequence[Row]) -> list[Path]:
    """Write table.md, table.csv and cells.csv; returns their paths."""
    texts = {TABLE: markdown(sweep, rows), TABLE_CSV: _table_csv(rows), CELLS_CSV: _cells_csv(rows)}
    for name, text in texts.items():
        write_text(output / name, text)
    return [output / name for name in texts]


def column_of(metric: str) -> Column | None:
    """How a metric of pretraining is shown; None for those of analyses, probes and species."""
    name, _, stage = metric.rpartition("_stage")
    if name in _BY_STAGE and stage.isdigit():
        return replace(_BY_STAGE[name], title=_BY_STAGE[name].title.format(stage))
    return _RESULTS.get(metric) or _COSTS.get(metric)


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Every metric that some cell has: known ones in their order, then the others as they come."""
    found = {metric: None for row in rows for result in row.results.values() for metric in result["metrics"]}
    by_stage = [f"{name}_stage{stage}" for name in _BY_STAGE for stage in stages_of(found, f"{name}_stage")]
    known = [name for name in (*_RESULTS, *by_stage, *_COSTS) if name in found]
    return [*known, *(name for name in found if name not in known)]


def shown_metrics(rows: Sequence[Row]) -> list[str]:
    """The metrics of table.md; cells.csv and table.csv have all."""

    def shown(name: str) -> bool:
        if name.startswith("probe."):
            return name.endswith(".mcc")
        if name.startswith("species."):
            return name.endswith(tuple(_SPECIES))
        return name not in _HIDDEN and not name.startswith(_HIDDEN_BY_STAGE)

    return [name for name in metrics_of(rows) if shown(name)]


def title_of(metric: str) -> str:
    """A column's heading."""
    if column := column_of(metric):
        return column.title
    if metric.startswith("probe."):
        return metric.removeprefix("probe.").removesuffix(".mcc") + ", MCC"
    for suffix, title in _SPECIES.items():
        if metric.startswith("species.") and metric.endswith(suffix):
            return f"{metric.removeprefix('species.').removesuffix(suffix)}, {title}"
    return metric.replace(".", " ")


def unit_of(metric: str) -> float:
    """What a metric's numbers are divided by where they are shown."""
    column = column_of(metric)
    return column.unit if column else 1.0


Table = tuple[list[str], list[list[str]]]  # header and lines


def tables_of(rows: Sequence[Row]) -> dict[str, Table]:
    """The tables for people by title: results, each species where there are several, analyses, and what it took."""
    metrics = [metric for metric in shown_metrics(rows) if not metric.startswith("species.")]
    results = [metric for metric in metrics if metric in _RESULTS or metric.startswith("probe.")]
    analyses = [metric for metric in metrics if not column_of(metric) and metric not in results]
    costs = [metric for metric in metrics if column_of(metric) and metric not in _RESULTS]
    tables = {"Results": _results(rows, results), **_species_tables(rows)}
    if analyses:  # they may be many, and of any magnitude: a line each
        lines = [[title_of(metric), *(_shown(metric, row.moments(metric)) for row in rows)] for metric in analyses]
        tables["Analyses"] = ["", *(row.name for row in rows)], lines
    return {**tables, "Compression and cost": _moments_table(rows, costs)}


def _species_tables(rows: Sequence[Row]) -> dict[str, Table]:
    found = headline(rows)
    suffix = f".{found.key}_loss"
    losses = [metric for metric in metrics_of(rows) if metric.startswith("species.") and metric.endswith(suffix)]
    if not losses:
        return {}
    names = [metric.removeprefix("species.").removesuffix(suffix) for metric in losses]
    lines = [
        [row.name, str(len(row.results)), *(_shown(suffix[1:], row.moments(metric)) for metric in losses)]
        for row in rows
    ]
    markov = {name: shared_baselines(rows, f"species.{name}.") for name in names}
    for order in sorted({order for of_species in markov.values() for order in of_species}):
        values = [format(markov[name][order], ".4f") if order in markov[name] else "" for name in names]
        lines.append([f"Markov, order {order}", "", *values])
    shares = {
        f"species.{name}.compression.stage{stage}": f"{name}, stage {stage}"
        for name in names
        for stage in stages_of(metrics_of(rows), f"species.{name}.compression.stage")
    }
    header, cuts = _moments_table(rows, list(shares))
    header[2:] = shares.values()
    return {
        f"Held-out {found.title} loss of each species": (["", "n", *names], lines),
        "Chunks per position of each species, unmasked": (header, cuts),
    }


def _results(rows: Sequence[Row], metrics: Sequence[str]) -> Table:
    header, lines = _moments_table(rows, metrics)
    loss = f"{headline(rows).key}_loss"
    if loss in metrics and len(rows) > 1:
        at = 3 + metrics.index(loss)
        header.insert(at, f"less that of {rows[0].name}, by seed")
        for row, line in zip(rows, lines, strict=True):
            pairs = row.differences(rows[0], loss) if row is not rows[0] else []
            line.insert(at, _mean_sd(pairs, "+.4f"))
    header.append("warnings")
    for row, line in zip(rows, lines, strict=True):
        told = [f"{name} {count}/{len(row.results)}" for name, count in row.warnings.items()]
        line.append(", ".join(told) or ("none" if row.results else ""))
    return header, lines


def _moments_table(rows: Sequence[Row], metrics: Sequence[str]) -> Table:
    lines = [
        [row.name, str(len(row.results)), *(_shown(metric, row.moments(metric)) for metric in metrics)] for row in rows
    ]
    return ["", "n", *map(title_of, metrics)], lines


def notes(sweep: SweepConfig, rows: Sequence[Row]) -> list[str]:
    """What a reader must know about the table."""
    scale = sweep.chosen
    spent = scale.budget
    told = [f"Scale {sweep.scale}: preset {scale.preset}, {_budget(spent.bases, spent.flops)} a cell, "
            f"seeds {', '.join(map(str, sweep.seeds))}. Mean ± standard deviation (n − 1) over the n finished cells of "
            "a row."]  # fmt: skip
    if any(row.results for row in rows):
        shared = shared_baselines(rows)
        texts = [_orders(shared)] if shared else [f"{r.name}: {_orders(r.baselines())}" for r in rows if r.baselines()]
        told.append(
            f"{headline(rows).title} loss in nats, held out. Markov tables on the same positions: "
            f"{'; '.join([*texts, 'uniform 1.3863'])}."
        )
    for row in rows:
        told += [f"FAILED: {row.name}, seed {seed}: {reason}" for seed, reason in row.failures.items()]
        if row.missing:
            told.append(f"Not run yet: {row.name}, seeds {', '.join(map(str, row.missing))}.")
    return told


def markdown(sweep: SweepConfig, rows: Sequence[Row]) -> str:
    """table.md: question, tables, notes."""
    text = [f"# {sweep.name}", "", sweep.question.strip(), ""]
    for title, (header, lines) in tables_of(rows).items():
        text += [f"## {title}", "", _line(header), _line(["---", *["---:"] * (len(header) - 1)])]
        text += [*map(_line, lines), ""]
    return "\n".join([*text, *(f"- {_cell_text(note)}" for note in notes(sweep, rows)), ""])


def _orders(baselines: dict[int, float]) -> str:
    return ", ".join(f"order {order} {value:.4f}" for order, value in baselines.items())


def _budget(bases: int | None, flops: float | None) -> str:
    return f"{bases:,} bases" if bases is not None else f"{flops:.3g} model FLOPs"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell_text, cells)) + " |"


def _cell_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _shown(metric: str, moments: tuple[float, float, int]) -> str:
    mean, spread, count = moments
    column = column_of(metric) or (_SHARE if metric.startswith(("probe.", "species.")) else _ANY)
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

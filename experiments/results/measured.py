"""What a finished cell measured, read from what its commands left; nothing is computed again."""

import csv
import json
import math
import statistics
from collections.abc import Iterator
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

from dnachunker.experiments.budget import network_of
from dnachunker.experiments.cells import RESULT, Cell, analysis_folder, probe_folder
from dnachunker.experiments.config import AnalysisSettings, SweepConfig
from dnachunker.foundations.failures import Failure
from dnachunker.pretrain.data.headline import headline_of
from dnachunker.pretrain.records.event_log import read_events

_WARM_UP_STEPS = 3  # of which the speed says little
_LAST_STEPS = 10  # whose average stands for the end of training
_EVALUATED = (
    "masked_loss",
    "order0_loss",
    "order3_loss",
    "order5_loss",
    "masked_accuracy",
    "next_base_loss",  # of a causal model, in the place of the two
    "next_base_accuracy",
    "repeat_loss",
    "unique_loss",
)
_DIAGNOSED = ("trunk_mean_cost", "trunk_shuffle_cost", "shift_overlap_stage")  # beginnings of names

Metrics = dict[str, float]


def read_cell(sweep: SweepConfig, cell: Cell) -> dict[str, Any]:
    """The content of result.json: `metrics` (flat), `curve` (bases and held-out loss), `warnings`.

    A number that is not finite, such as an empty field of a .csv, is left out.

    Raises:
        Failure: something that should be there is not.
    """
    events = read_events(cell.run)
    metrics, curve = read_training(cell, events)
    diagnosed = [event for event in events if event["event"] == "diagnostics"]
    for name, analysis in sweep.analyses.items():
        found = read_analysis(analysis, analysis_folder(cell, name, analysis) / analysis.read)
        metrics |= {f"{name}.{key}": value for key, value in found.items()}
    metrics |= _probe_scores(sweep, cell)
    return {
        "row": cell.row,
        "seed": cell.seed,
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "curve": curve,
        "measured": cell.measured,
        "warnings": sorted(set(diagnosed[-1]["warnings"])) if diagnosed else [],
    }


def read_training(cell: Cell, events: list[dict[str, Any]]) -> tuple[Metrics, list[tuple[float, float]]]:
    """Metrics of a run, and its held-out loss against training bases.

    `trunk_masked` and `trunk_unmasked`: chunks that reach the trunk, per base. `masked_stage0`, `unmasked_stage0` and
    so on: chunks per position of a stage. `forced_share_stage0` and so on: of a stage's chunks in training, the share
    that starts only because of mask protection. `peak_memory_gb`: of all ranks of the busiest machine.
    `flops_per_base`: at the compression of masked sequence in the last evaluation. `flops`: at each step's own.
    """
    steps = [event for event in events if event["event"] == "step"]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    if not steps or not evaluations:
        raise Failure(f"{cell.run}: no step or no evaluation was recorded")
    from dnachunker.model.cost import flops_per_base, parameters

    final, network = evaluations[-1], network_of(cell.config)
    metrics = {key: float(final[key]) for key in _EVALUATED if final.get(key) is not None}
    for mode, key in (("unmasked", "compression"), ("masked", "pretraining_compression")):
        metrics |= {f"{mode}_{stage}": share for stage, share in final[key].items()}
        metrics[f"trunk_{mode}"] = _chunks_per_base(final[key])[-1]
    last = steps[-_LAST_STEPS:]
    for stage in last[-1]["forced_share"]:
        metrics[f"forced_share_{stage}"] = statistics.fmean(step["forced_share"][stage] for step in last)
    seq_len = cell.config.data.seq_len
    recorded = sum(step["bases"] for step in steps)
    bases = recorded / len(steps) * steps[-1]["steps_done"]
    spent = 0.0
    for step in steps:
        spent += step["bases"] * flops_per_base(network, seq_len, _chunks_per_base(step["compression"])).total
    metrics |= {
        "bases_per_second": statistics.median(s["bases_per_second"] for s in steps[_WARM_UP_STEPS:] or steps),
        "steps": float(steps[-1]["steps_done"]),
        "bases": bases,
        "parameters": float(sum(parameters(network).values())),
        "flops_per_base": flops_per_base(network, seq_len, _chunks_per_base(final["pretraining_compression"])).total,
        "flops": spent / recorded * bases,
    }
    samples = [event for event in events if event["event"] == "system"]
    memory = [node for sample in samples for node in sample.values() if isinstance(node, dict)]
    for key in ("gpu_memory_gb", "ranks_peak_memory_gb", "ranks_memory_gb"):
        if found := [node[key] for node in memory if key in node]:
            metrics["peak_memory_gb"] = max(found)
            break
    diagnosed: dict[str, Any] = next((e for e in reversed(events) if e["event"] == "diagnostics"), {})
    metrics |= {k: float(v) for k, v in diagnosed.items() if k.startswith(_DIAGNOSED) and v is not None}
    for species, values in (final.get("species") or {}).items():
        metrics |= dict(_numbers(values, f"species.{species}."))
    per_step = bases / steps[-1]["steps_done"]
    held_out = [(e["steps_done"] * per_step, e[f"{headline_of(e).key}_loss"]) for e in evaluations]
    return metrics, [(at, loss) for at, loss in held_out if loss is not None]


def _chunks_per_base(compression: dict[str, float]) -> list[float]:
    """By stage, chunks per base, from chunks per position of the stage."""
    return list(accumulate(compression.values(), mul))


def read_analysis(analysis: AnalysisSettings, path: Path) -> Metrics:
    """Numbers of an analysis by name; those of a .csv are named VALUES.COLUMN after its `by` columns.

    Raises:
        Failure: not readable as asked for.
    """
    try:
        if path.suffix == ".json":
            found = dict(_numbers(json.loads(path.read_text("utf-8"))))
            kept = analysis.columns
            return {k: v for k, v in found.items() if not kept or any(k == c or k.startswith(f"{c}.") for c in kept)}
        with path.open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if all(r[key] in values for key, values in analysis.where.items())]
        return {
            ".".join([*(row[key] for key in analysis.by), column]): float(row[column] or math.nan)
            for row in rows
            for column in analysis.columns
        }
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"{path}: not readable as the analysis says ({type(error).__name__}: {error})") from error


def _probe_scores(sweep: SweepConfig, cell: Cell) -> Metrics:
    probe = sweep.probe
    found: Metrics = {}
    for task in probe.tasks if probe.folder else ():
        record = json.loads((probe_folder(sweep, cell) / task / probe.method / RESULT).read_text("utf-8"))
        found |= {f"probe.{task}.{name}": v for name, v in record["scores"].items() if v is not None}
    return found


def _numbers(values: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)

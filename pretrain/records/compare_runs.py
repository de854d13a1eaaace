"""Several runs as tables: how each did, and in which settings they differ."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from .mlflow_content import parameters_of
from .run_curves import RunCurves

_OF_THE_RUN_ALONE = ("run", "tracking.run_name", "tracking.parent_run", "launch.processes")


def summaries(runs: Sequence[RunCurves]) -> list[dict[str, Any]]:
    """A row for each run, best first: by held-out loss minus the order-5 Markov loss at the last evaluation."""
    rows = []
    for number, run in enumerate(runs):
        told = run.rows("evaluation")
        final = told[-1] if told else {}
        steps = run.rows("step")
        key = run.headline.key if run.headline else ""
        rows.append({
            "number": number, "name": run.name, "headline": run.headline.title if run.headline else "",
            "over_order5": final.get("over_order5"), "loss": final.get("headline_loss"),
            "accuracy": final.get(f"{key}_accuracy"), "trunk_share": final.get("trunk_share"),
            "bases_per_second": median(row["bases_per_second"] for row in steps),
            "steps": run.last["steps"], "of_steps": run.config.steps, "bases": run.last["bases"],
            "flops": run.last.get("flops"), "hours": run.last["hours"],
        })  # fmt: skip
    return sorted(rows, key=lambda row: (row["over_order5"] is None, row["over_order5"] or 0.0))


def differences(runs: Sequence[RunCurves]) -> list[tuple[str, list[str]]]:
    """Settings, and facts about the starts, in which the runs differ: a name, and the value of each run."""
    described = [parameters_of(run.config.model_dump(mode="json")) | _facts(run.start) for run in runs]
    names = dict.fromkeys(name for values in described for name in values if name not in _OF_THE_RUN_ALONE)
    rows = [(name, [str(values.get(name, "–")) for values in described]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _facts(start: dict[str, Any]) -> dict[str, Any]:
    code = start.get("code") or {}
    return {
        "ranks": start["world_size"], "device": start["device"], "corpus fingerprint": start["corpus"][:12],
        "commit": code.get("commit", "")[:12] + (" and changes" if code.get("changed") else ""),
        **{f"version of {name}": version for name, version in start["versions"].items()},
    }  # fmt: skip

"""A sweep in MLflow: one run for all of it, in which the run of every cell is nested."""

import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnachunker.downstream.output_folder import write_json
from dnachunker.experiments.cells import Cell
from dnachunker.experiments.config import SweepConfig

from .rows import Row
from .tables import shown_metrics

_STORED = "mlflow.json"  # the parent's run id, so that a repeated command adds no second one


def open_parent(sweep: SweepConfig, output: Path) -> None:
    """Create the sweep's MLflow run, once; a server that does not answer costs a line, and cells are not nested."""
    if not sweep.tracking.enabled or (output / _STORED).is_file():
        return
    try:
        from mlflow.entities import Param

        client, uri = _client(sweep, output), _uri(sweep, output)
        experiment = client.get_experiment_by_name(sweep.tracking.experiment)
        place = (output / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        number = experiment.experiment_id if experiment else client.create_experiment(sweep.tracking.experiment, place)
        parent = client.create_run(number, run_name=f"{sweep.name}: {output.name}").info.run_id
        facts = {"question": sweep.question, "scale": sweep.scale, "seeds": str(list(sweep.seeds))}
        client.log_batch(parent, params=[Param(key, value[:6000]) for key, value in facts.items()])
        write_json(output / _STORED, {"run_id": parent})
    except Exception as error:  # tracking must not take the sweep along
        _tell(error)


def cell_overrides(sweep: SweepConfig, output: Path, cell: Cell) -> list[str]:
    """What tells `pretrain` where to track a cell."""
    if not sweep.tracking.enabled:
        return ["tracking.enabled=false"]
    settings = {
        "uri": _uri(sweep, output),
        "experiment": sweep.tracking.experiment,
        "run_name": f"{cell.row}, seed {cell.seed}",
    }
    if (output / _STORED).is_file():
        settings["parent_run"] = json.loads((output / _STORED).read_text("utf-8"))["run_id"]
    return [f"tracking.{key}={json.dumps(value)}" for key, value in settings.items()]


def log_tables(sweep: SweepConfig, output: Path, rows: Sequence[Row], files: Sequence[Path]) -> None:
    """Send means and standard deviations by row, and the files, to the sweep's run."""
    if not sweep.tracking.enabled or not (output / _STORED).is_file():
        return
    try:
        from mlflow.entities import Metric

        client, parent = _client(sweep, output), json.loads((output / _STORED).read_text("utf-8"))["run_id"]
        when = client.get_run(parent).info.start_time
        points = []
        for row in rows:
            for metric in shown_metrics(rows):
                mean, spread, count = row.moments(metric)
                name = re.sub(r"[^A-Za-z0-9_./ -]", "_", f"{row.name}/{metric}")
                points += [Metric(name, mean, when, count)] if count else []
                points += [Metric(f"{name} sd", spread, when, count)] if count > 1 else []
        for begin in range(0, len(points), 900):  # the server takes 1000
            client.log_batch(parent, metrics=points[begin : begin + 900])
        for path in files:
            client.log_artifact(parent, str(path))
        failed = any(row.failures or row.missing for row in rows)
        client.set_terminated(parent, "FAILED" if failed else "FINISHED")
    except Exception as error:  # the tables are on disk
        _tell(error)


def _uri(sweep: SweepConfig, output: Path) -> str:
    return sweep.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output / 'mlflow.db'}"


def _client(sweep: SweepConfig, output: Path) -> Any:
    # MLflow's own defaults retry for four minutes within one call
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=_uri(sweep, output))


def _tell(error: Exception) -> None:
    line = re.sub(r"(?<=://)[^/@\s]+@", "***@", f"{type(error).__name__}: {error}")[:300]
    print(f"tracking: MLflow fails ({' '.join(line.split())}); the sweep goes on", file=sys.stderr)

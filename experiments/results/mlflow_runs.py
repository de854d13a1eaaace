"""A sweep in MLflow: one run for all of it, and the nested run of every cell."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dnachunker.experiments.cells import Cell
from dnachunker.experiments.config import SweepConfig
from dnachunker.foundations.atomic_files import write_json
from dnachunker.foundations.mlflow_client import NOTE_TAG, connect, error_line, experiment_id, legal_name, log_batch
from dnachunker.foundations.mlflow_models import alias_run, register_model
from dnachunker.foundations.mlflow_store import tracking_uri
from dnachunker.pretrain.records.mlflow_content import COLUMNS

from .rows import Row, collect, headline
from .tables import shown_metrics

_STORED = "mlflow.json"  # the run id of the sweep or of a cell, so that a repeated command adds no second one
_BEST = "best"  # the alias of a registered model


def open_parent(sweep: SweepConfig, output: Path) -> None:
    """Create the sweep's MLflow run, once. When the server does not answer, stderr says so and cells are not nested."""
    if not sweep.tracking.enabled or (output / _STORED).is_file():
        return
    try:
        uri = _uri(sweep, output)
        client = connect(uri)
        experiment = experiment_id(client, sweep.tracking.experiment, uri, COLUMNS, COLUMNS[0])
        note = f"**{sweep.question}**\n\nThe runs of this sweep's cells are nested in this one."
        tags = {NOTE_TAG: note, "mlflow.source.name": "dnachunker sweep", "sweep": sweep.name}
        parent = client.create_run(experiment, run_name=f"{sweep.name}: {output.name}", tags=tags).info.run_id
        write_json(output / _STORED, {"run_id": parent})
        facts = {"question": sweep.question, "scale": sweep.scale, "seeds": str(list(sweep.seeds))}
        log_batch(client, parent, parameters=facts)
    except Exception as error:  # a server must not stop the sweep
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
        client, parent = connect(_uri(sweep, output)), json.loads((output / _STORED).read_text("utf-8"))["run_id"]
        when = client.get_run(parent).info.start_time
        points = []
        for row in rows:
            for metric in shown_metrics(rows):
                mean, spread, count = row.moments(metric)
                name = legal_name(row.name, metric)
                points += [(name, mean, when, count)] if count else []
                points += [(f"{name} sd", spread, when, count)] if count > 1 else []
        log_batch(client, parent, metrics=points)
        for path in files:
            client.log_artifact(parent, str(path))
        failed = any(row.failures or row.missing for row in rows)
        client.set_terminated(parent, "FAILED" if failed else "FINISHED")
    except Exception as error:  # the tables are on disk
        _tell(error)


def register_best(sweep: SweepConfig, output: Path, cells: Sequence[Cell]) -> None:
    """Register the export of the cell with the lowest held-out loss, with the alias `best`, unless it is there.

    The comparison is of finished cells; the headline loss of all is the same, see `headline`.
    """
    name = sweep.tracking.register_as
    if not (sweep.tracking.enabled and name):
        return
    metric = f"{headline(collect(cells)).key}_loss"
    finished = [(json.loads(cell.result.read_text("utf-8")), cell) for cell in cells if cell.is_finished()]
    losses = [(result["metrics"][metric], cell) for result, cell in finished if metric in result["metrics"]]
    if not losses:
        return
    _, best = min(losses, key=lambda pair: pair[0])
    try:
        uri, record = _uri(sweep, output), json.loads((best.export / "export.json").read_text("utf-8"))
        run_id = json.loads((best.run / _STORED).read_text("utf-8"))["run_id"]
        if alias_run(uri, name, _BEST) != run_id:
            register_model(uri, run_id, best.export, name, step=record["step"], alias=_BEST)
    except Exception as error:  # the export is on disk
        _tell(error)


def _uri(sweep: SweepConfig, output: Path) -> str:
    return tracking_uri(sweep.tracking.uri, output)


def _tell(error: Exception) -> None:
    print(f"tracking: MLflow fails ({error_line(error)}); the sweep goes on", file=sys.stderr)

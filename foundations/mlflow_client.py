"""MLflow as all packages use it: a client that fails fast, experiments, legal names, batches, errors."""

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .failures import BadInput
from .mlflow_store import ROOT_TAG, artifact_root, opening, redacted, sqlite_file

PARENT_TAG = "mlflow.parentRunId"  # a run with this tag is nested under the run of that id
NOTE_TAG = "mlflow.note.content"  # the description of a run or an experiment, in Markdown
VIEW = "dnachunker"  # key of the saved view of an experiment's runs table
METRICS_A_CALL = 900  # the server takes 1000
_PARAMETERS_A_CALL = 90  # the server takes 100 of parameters and of tags
_LONGEST_PARAMETER = 6000  # characters, as the server takes them
_LONGEST_TAG = 8000
_LONGEST_KEY = 250
_LONGEST_ERROR = 400
_WIDTH = 110  # of a column of the runs table at least, in pixels
_KIND_TAG, _VIEW_TAG = "mlflow.experimentKind", f"mlflow.sharedViewState.{VIEW}"
# Pages of this kind begin with the runs table; MLflow guesses "GenAI", and begins with traces, where it is not set.
_KIND = "custom_model_development"

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


def connect(uri: str) -> Any:
    """An `MlflowClient` that prints warnings only and retries a request once.

    Several processes may connect to a new SQLite store at the same time.

    Raises:
        BadInput: the schema of the store is older or newer than the installed MLflow's.
    """
    # MLflow's own defaults retry for four minutes within one call
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # at INFO, alembic prints every table it creates
    store = sqlite_file(uri)
    try:
        with opening(store) if store else contextlib.nullcontext():
            return MlflowClient(tracking_uri=uri, registry_uri=uri)  # opens a database at once
    except Exception as error:
        if line := _schema_line(error, uri):
            raise BadInput(line) from error
        raise


def _schema_line(error: Exception, uri: str) -> str | None:
    """What to do about a store whose schema is older or newer than the installed MLflow's; None: the error is another.

    Args:
        error: raised by MLflow when it opened the store at `uri`.
    """
    text = str(error)
    found = re.search(r"found version (\w+)|Can't locate revision identified by '(\w+)'", text)
    if not found:
        return None
    import mlflow
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    place = redacted(uri)
    try:
        scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
        scripts.get_revision(found[1] or found[2])
    except CommandError:
        return (
            f"{place}: a newer MLflow than the installed {mlflow.__version__} wrote this store; "
            f"run: pip install --upgrade mlflow"
        )
    return f"{place}: an older MLflow wrote this store; make a copy of it, then run: mlflow db upgrade {place}"


def experiment_id(client: Any, name: str, uri: str, columns: Sequence[str] = (), order: str = "") -> str:
    """The id of the experiment of that name, made if there is none.

    A deleted experiment keeps its name, so the next one is called `name-2`. The page of the experiment begins with the
    runs table. A new experiment of an SQLite store keeps its artifacts beside the store.

    Args:
        columns: of the runs table in the saved view, such as ``metrics.`train/loss` ``.
        order: the column by which the saved view sorts, smallest value first; "" for the newest run first.
    """
    number, store = 1, sqlite_file(uri)
    place = artifact_root(store) if store else None
    tags = {_KIND_TAG: _KIND, **({ROOT_TAG: place} if place else {})}
    tags |= {_VIEW_TAG: _saved_view(columns, order)} if columns else {}
    while True:
        title = name if number == 1 else f"{name}-{number}"
        found = client.get_experiment_by_name(title)
        if found is None:
            try:
                return str(client.create_experiment(title, place, tags))
            except Exception:
                found = client.get_experiment_by_name(title)  # another process was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "active":
            for key in (_KIND_TAG, _VIEW_TAG):
                if key in tags and key not in found.tags:  # made by an earlier version, or by the user
                    client.set_experiment_tag(found.experiment_id, key, tags[key])
            return str(found.experiment_id)
        number += 1


def _saved_view(columns: Sequence[str], order: str) -> str:
    """A saved view of MLflow's runs table: the columns, and all runs of any time in the given order."""
    now = int(time.time() * 1000)
    facets = {
        "searchFilter": "", "orderByKey": order or "attributes.start_time", "orderByAsc": bool(order),
        "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
    }  # fmt: skip
    widths = {column: max(_WIDTH, 7 * len(column) - 30) for column in columns}  # so that the header can be read
    shown = {"selectedColumns": list(columns), "columnOrder": list(columns), "columnWidths": widths}
    state = json.dumps({**facets, **shown})
    return json.dumps({"name": VIEW, "createdAt": now, "updatedAt": now, "state": state})


def run_page(info: Any, inside: str = "") -> str:
    """Address of a run's page without its host, as model training shows it: MLflow would show it as GenAI.

    Args:
        info: of an MLflow run.
        inside: which part of the page, such as `artifacts/report.html`.
    """
    place = f"#/experiments/{info.experiment_id}/runs/{info.run_id}"
    return f"{place}{'/' if inside else ''}{inside}?workflowType=machine_learning"


def is_active(client: Any, run_id: str) -> bool:
    """Whether the store has the run, and nobody has deleted it."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def log_batch(
    client: Any,
    run_id: str,
    *,
    metrics: Sequence[Point] = (),
    parameters: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Send everything in as few calls as the server allows. Keys must be legal; long values are cut."""
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(key, redacted(str(value))[:_LONGEST_PARAMETER]) for key, value in (parameters or {}).items()]
    run_tags = [RunTag(key, redacted(str(value))[:_LONGEST_TAG]) for key, value in (tags or {}).items()]
    points = [Metric(*point) for point in metrics]
    while points or params or run_tags:
        client.log_batch(
            run_id, metrics=points[:METRICS_A_CALL], params=params[:_PARAMETERS_A_CALL],
            tags=run_tags[:_PARAMETERS_A_CALL],
        )  # fmt: skip
        points, params = points[METRICS_A_CALL:], params[_PARAMETERS_A_CALL:]
        run_tags = run_tags[_PARAMETERS_A_CALL:]


def log_dataset(client: Any, run_id: str, fields: Mapping[str, str]) -> None:
    """Log what a run is trained on.

    Args:
        fields: of MLflow's `Dataset`: name, digest (36 characters at most), source_type, source, and profile as JSON.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client.log_inputs(run_id, [DatasetInput(Dataset(**fields), [InputTag("mlflow.data.context", "training")])])


def legal_name(*parts: str) -> str:
    """A key for a metric or a parameter: `parts` joined by `/`, with `_` for what MLflow refuses in one."""
    cleaned = [re.sub(r"[^\w. -]", "_", part) for part in parts]
    return "/".join("_" if part in ("", ".", "..") else part for part in cleaned)[:_LONGEST_KEY]


def error_line(error: Exception) -> str:
    """One line about a failed call, without passwords."""
    name = "" if isinstance(error, BadInput) else f"{type(error).__name__}: "
    return " ".join(redacted(f"{name}{error}")[:_LONGEST_ERROR].split())

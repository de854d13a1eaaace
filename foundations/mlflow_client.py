"""MLflow as all packages use it: where results are tracked, a client that fails fast, experiments, batches, errors."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

PARENT_TAG = "mlflow.parentRunId"  # a run with this tag is nested under the run of that id
METRICS_A_CALL = 900  # the server takes 1000
_LONGEST_PARAMETER = 6000  # characters, as the server takes them
_LONGEST_ERROR = 300

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


def tracking_uri(explicit: str | None, folder: Path) -> str:
    """The explicit URI, else MLFLOW_TRACKING_URI, else sqlite in `folder`."""
    if given := explicit or os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    path = str((folder / "mlflow.db").absolute())
    # slashes too, because MLflow makes the parent folder of the path as it is written in the URI
    return f"sqlite:///{quote(path, safe='') if '?' in path or '%' in path else path}"


def connect(uri: str) -> Any:
    """An `MlflowClient` that prints warnings only and retries a request once."""
    # MLflow's own defaults retry for four minutes within one call
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # at INFO, alembic prints every table it creates
    return MlflowClient(tracking_uri=uri)


def experiment_id(client: Any, name: str, uri: str, folder: Path) -> str:
    """The experiment's id; a new experiment keeps its artifacts in `folder` where `uri` is sqlite."""
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    place = (folder / "mlartifacts").absolute().as_uri() if uri.startswith("sqlite:") else None
    return str(client.create_experiment(name, place))


def log_batch(
    client: Any,
    run_id: str,
    *,
    metrics: Sequence[Point] = (),
    parameters: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Send everything in as few calls as the server allows: in one, with up to METRICS_A_CALL metrics."""
    if not (metrics or parameters or tags):
        return
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(key, redacted(str(value))[:_LONGEST_PARAMETER]) for key, value in (parameters or {}).items()]
    run_tags = [RunTag(key, value) for key, value in (tags or {}).items()]
    for begin in range(0, max(1, len(metrics)), METRICS_A_CALL):
        points = [Metric(*point) for point in metrics[begin : begin + METRICS_A_CALL]]
        client.log_batch(run_id, metrics=points, params=params, tags=run_tags)
        params, run_tags = [], []


def redacted(text: str) -> str:
    """`text` without the user names and passwords of URLs."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


def error_line(error: Exception) -> str:
    """One line about a failed call, without passwords."""
    return " ".join(redacted(f"{type(error).__name__}: {error}")[:_LONGEST_ERROR].split())

"""`dnachunker export --register`: the exported folder as a registered model of the run in MLflow."""

from pathlib import Path
from typing import NamedTuple

from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.mlflow_client import error_line
from dnachunker.foundations.mlflow_models import register_model
from dnachunker.foundations.mlflow_store import redacted, tracking_uri
from dnachunker.pretrain.config import TrackingSettings
from dnachunker.pretrain.records.mlflow_mirror import read_cursor


class TrackedRun(NamedTuple):
    """A run in MLflow: the tracking URI, and its id there."""

    uri: str
    run_id: str


def tracked_run(run: Path, settings: TrackingSettings, name: str | None) -> TrackedRun:
    """Where MLflow has a run.

    Raises:
        BadInput: nowhere, or no name is given for the registered model.
    """
    if not name:
        raise BadInput("export --alias: name the registered model with --register NAME")
    run_id = read_cursor(run).get("run_id")
    if not run_id:
        raise BadInput(f"{run}: MLflow has not got this run (tracking.enabled), so --register cannot add a model to it")
    return TrackedRun(tracking_uri(settings.uri, run), str(run_id))


def register_export(tracked: TrackedRun, export: Path, name: str, *, step: int, alias: str | None) -> int:
    """Register an exported folder; returns the version.

    Raises:
        Failure: MLflow does not take it. The folder stays.
    """
    try:
        return register_model(tracked.uri, tracked.run_id, export, name, step=step, alias=alias)
    except Exception as error:
        raise Failure(
            f"{export} is written, but MLflow at {redacted(tracked.uri)} does not register it: {error_line(error)}"
        ) from error

"""MLflow as a mirror of the event log: fed by a background thread, so that training never waits for it."""

import json
import logging
import os
import queue
import threading
from pathlib import Path
from typing import Any

from .config import PretrainConfig
from .telemetry import read_events

_CURSOR = "mlflow.json"  # run id and, by kind of event, the last step mirrored, so that a resume repeats no point
_MIRRORED = {"step": "train/", "evaluation": "valid/"}


class MlflowMirror:
    """Sends events to MLflow; a failing or slow server costs log lines, never training time.

    Args:
        run: the run folder; holds the sqlite store where no tracking URI is configured.
        announce: called with a line for the user when tracking fails.
    """

    def __init__(self, run: Path, config: PretrainConfig, announce: Any) -> None:
        self._run = run
        self._config = config
        self._announce = announce
        # what an earlier process logged but could not send: the cursor tells which of it is new
        self._backlog = [event for event in read_events(run) if event["event"] in _MIRRORED]
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def send(self, event: dict[str, Any]) -> None:
        """Queue one event; returns at once."""
        self._queue.put(event)

    def close(self, timeout: float = 60.0) -> None:
        """Send what is queued, for at most `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._announce(f"tracking: MLflow did not finish within {timeout:.0f} s; events.jsonl has everything")

    def _work(self) -> None:
        try:
            self._mirror()
        except Exception as error:  # the mirror must never take training down with it
            self._announce(
                f"tracking: MLflow failed ({type(error).__name__}: {error}); events.jsonl has everything, and a resume "
                f"sends what is missing"
            )

    def _mirror(self) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # not: every table it creates
        uri = tracking_uri(self._run, self._config)
        client = MlflowClient(tracking_uri=uri)
        cursor = read_cursor(self._run)
        if not cursor:
            cursor = {"run_id": self._create_run(client, uri, Param), "step": 0, "evaluation": 0}
        client.update_run(cursor["run_id"], status="RUNNING")

        batch, closing, finished = self._backlog, False, False
        while True:
            metrics = []
            for item in batch:
                finished |= item["event"] == "finish"
                kind, step = item["event"], item.get("steps_done", 0)
                if kind in _MIRRORED and step > cursor[kind]:  # each point once, whatever a resume repeats
                    cursor[kind] = step
                    stamp = int(item["time"] * 1000)
                    metrics += [Metric(name, value, stamp, step) for name, value in _numbers(item)]
            for begin in range(0, len(metrics), 1000):  # the server's limit for one call
                client.log_batch(cursor["run_id"], metrics=metrics[begin : begin + 1000])
            _write_cursor(self._run, cursor)
            if closing:
                break
            batch, closing = self._next_batch()
        client.set_terminated(cursor["run_id"], status="FINISHED" if finished else "KILLED")

    def _next_batch(self) -> tuple[list[dict[str, Any]], bool]:
        """What is queued, at least one event, and whether the queue was closed."""
        batch: list[dict[str, Any]] = []
        event = self._queue.get()
        while event is not None:
            batch.append(event)
            if self._queue.empty() or len(batch) >= 200:
                return batch, False
            event = self._queue.get()
        return batch, True

    def _create_run(self, client: Any, uri: str, param: Any) -> str:
        name = self._config.tracking.experiment
        experiment = client.get_experiment_by_name(name)
        artifacts = (self._run / "mlartifacts").absolute().as_uri() if uri.startswith("sqlite:") else None
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name, artifacts)
        run = client.create_run(experiment_id, run_name=self._config.tracking.run_name or self._run.name)
        parameters = [param(key, str(value)[:6000]) for key, value in _flat(self._config.model_dump(mode="json"))]
        client.log_batch(run.info.run_id, params=parameters)
        _write_cursor(self._run, {"run_id": str(run.info.run_id), "step": 0, "evaluation": 0})
        return str(run.info.run_id)


def tracking_uri(run: Path, config: PretrainConfig) -> str:
    """Where this run is tracked: the config's URI, else MLFLOW_TRACKING_URI, else sqlite in the run folder."""
    local = f"sqlite:///{(run / 'mlflow.db').absolute()}"
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or local


def read_cursor(run: Path) -> dict[str, Any]:
    """`run_id` and the last mirrored `step` and `evaluation`; empty before MLflow has answered."""
    path = run / _CURSOR
    return dict(json.loads(path.read_text())) if path.exists() else {}


def forget_run(run: Path) -> None:
    """Make the next mirror open a new MLflow run: training starts over."""
    (run / _CURSOR).unlink(missing_ok=True)


def _write_cursor(run: Path, cursor: dict[str, Any]) -> None:
    partial = run / f".{_CURSOR}.partial"
    partial.write_text(json.dumps(cursor) + "\n")
    partial.replace(run / _CURSOR)


def _numbers(event: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    prefix = prefix or _MIRRORED[event["event"]]
    found = []
    for key, value in event.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{_legal(key)}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in ("time", "steps_done"):
            found.append((prefix + _legal(key), float(value)))
    return found


def _legal(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for key, value in values.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(prefix + key, value)]
    return flat

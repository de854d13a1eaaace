"""MLflow as a replay of the event log: by a background thread, so that training never waits for a server.

The thread reads events.jsonl and sends what the server does not have yet. A server that fails is tried again, later
and later; once it answers, everything is caught up, in this process or in the next.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dnachunker.pretrain.config import PretrainConfig

from .event_log import EVENTS

_CURSOR = "mlflow.json"  # run id and, by kind of event, the last step mirrored, so that a resume repeats no point
_MIRRORED = {"step": "train/", "evaluation": "valid/", "diagnostics": "diagnostics/"}
# What tells, by kind of event, how far the server has got when the answer to a call was lost.
_WITNESS = {"step": "train/loss", "evaluation": "valid/order0_loss"}
_METRICS_A_CALL = 900  # the server takes 1000
_RETRY_SECONDS = (2.0, 60.0)  # the first wait after a failure, and the longest


class MlflowMirror:
    """Sends events to MLflow; a failing or slow server costs log lines, never training time.

    Args:
        run: the run folder; holds the sqlite store where no tracking URI is configured.
        fresh: training starts from nothing: open a new MLflow run, and leave out what the log holds already.
        announce: called with a line for the user when tracking fails, and when it works again.
    """

    def __init__(self, run: Path, config: PretrainConfig, announce: Callable[[str], None], *, fresh: bool) -> None:
        self._run = run
        self._config = config
        self._announce = announce
        self._client: Any = None
        self._offset = (run / EVENTS).stat().st_size if fresh else 0  # bytes of the log that were sent
        if fresh:
            (run / _CURSOR).unlink(missing_ok=True)
        self._cursor: dict[str, Any] = {}
        self._status = "FAILED"  # unless an event says otherwise
        self._failing = False
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that the event log has grown; returns at once."""
        self._news.set()

    def close(self, timeout: float = 60.0) -> None:
        """Send what is left, for at most `timeout` seconds; less when the server did not answer last time."""
        self._closing.set()
        self._news.set()
        self._thread.join(5.0 if self._failing else timeout)
        if self._thread.is_alive() or self._failing:
            self._announce("tracking: MLflow has not got everything; events.jsonl has, and a resume sends the rest")

    def _work(self) -> None:
        wait, longest = _RETRY_SECONDS
        while True:
            closing = self._closing.is_set()
            self._news.clear()
            try:
                self._catch_up()
                if closing:
                    self._finish()
            except Exception as error:  # the mirror must never take training down with it
                self._client = None
                if not self._failing:
                    line = redacted(f"{type(error).__name__}: {error}")[:300]
                    self._announce(f"tracking: MLflow fails ({line}); trying again in the background")
                self._failing = True
                if closing:
                    return
                self._closing.wait(wait)
                wait = min(2 * wait, longest)
                continue
            if self._failing:
                self._announce("tracking: MLflow answers again and has caught up")
            self._failing, wait = False, _RETRY_SECONDS[0]
            if closing:
                return
            self._news.wait()

    def _catch_up(self) -> None:
        if self._client is None:
            self._connect()
        for events, end in self._unsent():
            self._send(events)
            self._offset = end
            write_cursor(self._run, self._cursor)

    def _connect(self) -> None:
        # MLflow's own defaults retry for four minutes within one call
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # not: every table it creates
        client = MlflowClient(tracking_uri=tracking_uri(self._run, self._config))
        self._cursor = {**dict.fromkeys(_MIRRORED, 0), **read_cursor(self._run)}
        if "run_id" not in self._cursor:
            self._cursor["run_id"] = self._create_run(client)
            write_cursor(self._run, self._cursor)
        for kind, witness in _WITNESS.items():
            history = client.get_metric_history(self._cursor["run_id"], witness)
            self._cursor[kind] = max([self._cursor[kind], *(point.step for point in history)])
        client.update_run(self._cursor["run_id"], status="RUNNING")
        self._client = client

    def _unsent(self) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Events after the offset, a call's worth at a time, each with the offset behind its last one."""
        batch: list[dict[str, Any]] = []
        size = 0
        with (self._run / EVENTS).open("rb") as file:
            file.seek(self._offset)
            end = self._offset
            for line in iter(file.readline, b""):
                if not line.endswith(b"\n"):
                    break  # still being written
                end += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # cut short by a crash
                batch.append(event)
                size += len(_numbers(event)) if event["event"] in _MIRRORED else 0
                if size > _METRICS_A_CALL - 100:
                    yield batch, end
                    batch, size = [], 0
        if batch:
            yield batch, end

    def _send(self, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, RunTag

        metrics: list[Metric] = []
        tags: dict[str, str] = {}
        for event in events:
            kind, step = event["event"], event.get("steps_done", 0)
            self._status = {"finish": "FINISHED", "interrupt": "KILLED", "resume": "FAILED"}.get(kind, self._status)
            tags |= _tags(event)
            if kind in _MIRRORED and step > self._cursor[kind]:  # each point once, whatever a resume repeats
                self._cursor[kind] = step
                stamp = int(event["time"] * 1000)
                metrics += [Metric(name, value, stamp, step) for name, value in _numbers(event)]
        if metrics or tags:
            run_id = self._cursor["run_id"]
            self._client.log_batch(run_id, metrics=metrics, tags=[RunTag(*item) for item in tags.items()])

    def _finish(self) -> None:
        run_id = self._cursor["run_id"]
        self._client.set_terminated(run_id, status=self._status)
        if self._status == "FINISHED":
            from .report import write_report

            for path in (self._run / "config.yaml", write_report(self._run)):
                self._client.log_artifact(run_id, str(path))

    def _create_run(self, client: Any) -> str:
        from mlflow.entities import Param

        settings = self._config.tracking
        experiment = client.get_experiment_by_name(settings.experiment)
        local = tracking_uri(self._run, self._config).startswith("sqlite:")
        artifacts = (self._run / "mlartifacts").absolute().as_uri() if local else None
        experiment_id = (
            experiment.experiment_id if experiment else client.create_experiment(settings.experiment, artifacts)
        )
        tags = {"mlflow.parentRunId": settings.parent_run} if settings.parent_run else {}
        run = client.create_run(experiment_id, run_name=settings.run_name or self._run.name, tags=tags)
        parameters = [
            Param(key, redacted(str(value))[:6000]) for key, value in _flat(self._config.model_dump(mode="json"))
        ]
        client.log_batch(run.info.run_id, params=parameters)
        return str(run.info.run_id)


def redacted(text: str) -> str:
    """`text` without the user names and passwords of URLs."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


def tracking_uri(run: Path, config: PretrainConfig) -> str:
    """Where this run is tracked: the config's URI, else MLFLOW_TRACKING_URI, else sqlite in the run folder."""
    local = f"sqlite:///{(run / 'mlflow.db').absolute()}"
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or local


def read_cursor(run: Path) -> dict[str, Any]:
    """`run_id` and the last mirrored `step` and `evaluation`; empty before MLflow has answered."""
    path = run / _CURSOR
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_cursor(run: Path, cursor: dict[str, Any]) -> None:
    partial = run / f".{_CURSOR}.partial"
    partial.write_text(json.dumps(cursor) + "\n")
    partial.replace(run / _CURSOR)


def _tags(event: dict[str, Any]) -> dict[str, str]:
    """What an event says about the run as a whole."""
    if event["event"] in ("start", "resume"):
        names = ("world_size", "zero_stage", "device", "versions", "corpus", "code", "machines")
        return {name: json.dumps(event[name]) for name in names if name in event}
    if event["event"] == "checkpoint":
        return {"checkpoint": event["folder"]}
    if event["event"] == "guard":
        return {"guard": f"step {event['step']}: {event['detail']}"[:500]}
    if event["event"] == "diagnostics":
        return {"warnings": ", ".join(event.get("warnings", []))[:500] or "none"}
    return {}


def _numbers(event: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    prefix = prefix or _MIRRORED[event["event"]]
    found = []
    for key, value in event.items():
        if isinstance(value, dict):
            # MLflow's page shows names that begin with "system/" apart
            found += _numbers(value, "system/" if key == "system" else f"{prefix}{_legal(key)}/")
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

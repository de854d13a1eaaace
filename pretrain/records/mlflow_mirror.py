"""The MLflow mirror: a background thread sends the event log to MLflow, so that training never waits for a server.

The thread reads events.jsonl and sends what the server does not have yet. When the server fails, the thread tries
again after longer and longer pauses. Once the server answers, it gets everything it missed, from this process or from
the one that resumes the run.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dnachunker.foundations.atomic_files import write_json
from dnachunker.foundations.mlflow_client import (
    METRICS_A_CALL,
    PARENT_TAG,
    Point,
    connect,
    error_line,
    experiment_id,
    log_batch,
    tracking_uri,
)
from dnachunker.pretrain.config import TrackingSettings

from .event_log import EVENTS

_CURSOR = "mlflow.json"  # run id and, by kind of event, the last step mirrored, so that a resume repeats no point
_MIRRORED = {"step": "train/", "evaluation": "valid/", "diagnostics": "diagnostics/", "system": "system/"}
# By kind of event, a metric whose history shows how far the server has got when the answer to a call was lost.
_WITNESS = {"step": "train/loss", "evaluation": "valid/order0_loss"}
_RETRY_SECONDS = (2.0, 60.0)  # the first wait after a failure, and the longest


class MlflowMirror:
    """Sends events to MLflow; a failing or slow server costs log lines, never training time."""

    def __init__(
        self,
        run: Path,
        settings: TrackingSettings,
        parameters: Mapping[str, Any],
        announce: Callable[[str], None],
        *,
        fresh: bool,
    ) -> None:
        """
        Args:
            run: the run folder; holds the sqlite store where no tracking URI is configured.
            parameters: logged once for the run; of nested mappings, the keys are joined by dots.
            announce: called with a line for the user when MLflow fails, and when it works again.
            fresh: training starts from nothing: open a new MLflow run, and send nothing that the log holds already.
        """
        self._run = run
        self._settings = settings
        self._parameters = parameters
        self._uri = tracking_uri(settings.uri, run)
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
            self._announce("tracking: MLflow lacks the last events; events.jsonl has them, and a resume sends them")

    def _work(self) -> None:
        wait, longest = _RETRY_SECONDS
        while True:
            closing = self._closing.is_set()
            self._news.clear()
            try:
                self._catch_up()
                if closing:
                    self._finish()
            except Exception as error:  # a server must never stop training
                self._client = None
                if not self._failing:
                    self._announce(f"tracking: MLflow fails ({error_line(error)}); trying again in the background")
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
        client = connect(self._uri)
        self._cursor = {**dict.fromkeys(_MIRRORED, -1), **read_cursor(self._run)}
        if "run_id" not in self._cursor:
            self._cursor["run_id"] = self._create_run(client)
            write_cursor(self._run, self._cursor)
        for kind, witness in _WITNESS.items():
            history = client.get_metric_history(self._cursor["run_id"], witness)
            self._cursor[kind] = max([self._cursor[kind], *(point.step for point in history)])
        client.update_run(self._cursor["run_id"], status="RUNNING")
        self._client = client

    def _unsent(self) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Events after the offset, in groups that fit one call, each with the offset after its last event."""
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
                if size > METRICS_A_CALL - 100:
                    yield batch, end
                    batch, size = [], 0
        if batch:
            yield batch, end

    def _send(self, events: list[dict[str, Any]]) -> None:
        metrics: list[Point] = []
        tags: dict[str, str] = {}
        for event in events:
            kind, step = event["event"], event.get("steps_done", 0)
            self._status = {"finish": "FINISHED", "interrupt": "KILLED", "resume": "FAILED"}.get(kind, self._status)
            tags |= _tags(event)
            if kind in _MIRRORED and step > self._cursor[kind]:  # a resume repeats steps; the server gets each once
                self._cursor[kind] = step
                stamp = int(event["time"] * 1000)
                metrics += [(name, value, stamp, step) for name, value in _numbers(event)]
        log_batch(self._client, self._cursor["run_id"], metrics=metrics, tags=tags)

    def _finish(self) -> None:
        run_id = self._cursor["run_id"]
        self._client.set_terminated(run_id, status=self._status)
        if self._status == "FINISHED":
            from .report import write_report

            for path in (self._run / "config.yaml", write_report(self._run)):
                self._client.log_artifact(run_id, str(path))

    def _create_run(self, client: Any) -> str:
        settings = self._settings
        experiment = experiment_id(client, settings.experiment, self._uri, self._run)
        tags = {PARENT_TAG: settings.parent_run} if settings.parent_run else {}
        run = client.create_run(experiment, run_name=settings.run_name or self._run.name, tags=tags)
        log_batch(client, run.info.run_id, parameters=dict(_flat(self._parameters)))
        return str(run.info.run_id)


def read_cursor(run: Path) -> dict[str, Any]:
    """`run_id` and the last mirrored `step` and `evaluation`; empty before MLflow has answered."""
    path = run / _CURSOR
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_cursor(run: Path, cursor: dict[str, Any]) -> None:
    write_json(run / _CURSOR, cursor)


def _tags(event: dict[str, Any]) -> dict[str, str]:
    """The part of an event that describes the whole run."""
    if event["event"] in ("start", "resume"):
        names = ("world_size", "micro_batch", "zero_stage", "device", "versions", "corpus", "code", "machines")
        return {name: json.dumps(event[name]) for name in (*names, "parent") if event.get(name) is not None}
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
            # MLflow's page has a tab of its own for names that begin with "system/"
            found += _numbers(value, "system/" if key == "system" else f"{prefix}{_legal(key)}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in ("time", "steps_done"):
            found.append((prefix + _legal(key), float(value)))
    return found


def _legal(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for key, value in values.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(prefix + key, value)]
    return flat

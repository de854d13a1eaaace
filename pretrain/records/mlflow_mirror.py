"""The MLflow mirror: a background thread sends the event log to MLflow, so that training never waits for a server.

The thread reads events.jsonl and sends what the server does not have yet. When the server fails, the thread tries
again after longer and longer pauses. Once the server answers, it gets everything it missed, from this process or from
the one that resumes the run.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dnachunker.dataprep.storage import exists, join, read_bytes
from dnachunker.foundations.atomic_files import write_json
from dnachunker.foundations.mlflow_client import (
    METRICS_A_CALL,
    PARENT_TAG,
    Point,
    connect,
    error_line,
    experiment_id,
    is_active,
    log_batch,
    log_dataset,
    run_page,
)
from dnachunker.foundations.mlflow_store import tracking_uri
from dnachunker.pretrain.config import TrackingSettings

from .event_log import EVENTS, LogFollower
from .mlflow_content import (
    COLUMNS,
    GROUPS,
    WITNESSES,
    constants_of,
    dataset_of,
    metrics_of,
    note_of,
    parameters_of,
    source_tags,
    tags_of,
)

_CURSOR = "mlflow.json"  # run id and, by kind of event, the last step mirrored, so that a resume repeats no point
_TOKEN_TAG = (
    "dnachunker.token"  # of a run: what the cursor holds, so that a run whose creation was not answered is found
)
_REPLACES_TAG = "dnachunker.replaces"  # of a run: the id of the deleted run that it continues
_CARD = "card.html"  # of a corpus
_RETRY_SECONDS = (2.0, 60.0)  # the first wait after a failure, and the longest
_PAUSE_SECONDS = 10.0  # between two calls: many steps go in one, since each call takes CPU time from training
_REPORT_SECONDS = 600.0  # between two reports that are made while training goes on


class MlflowMirror(LogFollower):
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
            run: the run folder; the sqlite store lies beside it where no tracking URI is configured.
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
        self._newest: dict[str, dict[str, Any]] = {}  # by kind, the last event
        self._reported = time.monotonic()  # when the last report was made, or this mirror began
        self._report = ""  # name of the report among the artifacts, once it is there
        self._status = "FAILED"  # unless an event says otherwise
        self._failing = False
        super().__init__("mlflow-mirror")

    def close(self, timeout: float = 60.0) -> None:
        """Send what is left, for at most `timeout` seconds; less when the server did not answer last time."""
        self._end(5.0 if self._failing else timeout)
        if self._thread.is_alive() or self._failing:
            self._announce("tracking: MLflow lacks the last events; events.jsonl has them, and a resume sends them")

    def _work(self) -> None:
        wait, longest = _RETRY_SECONDS
        while True:
            self._news.clear()  # before the look at `_closing`, so that no later call is lost
            closing = self._closing.is_set()
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
            self._closing.wait(_PAUSE_SECONDS)
            self._news.wait()

    def _catch_up(self) -> None:
        if self._client is None:
            self._connect()
        for events, end in self._unsent():
            self._send(events)
            self._offset = end
            self._store_cursor()

    def _connect(self) -> None:
        client = connect(self._uri)
        self._cursor = {**dict.fromkeys(GROUPS, -1), **read_cursor(self._run)}
        lost = self._cursor.get("run_id")
        if lost and not is_active(client, lost):
            self._cursor = {**dict.fromkeys(GROUPS, -1), "replaces": lost}
            self._offset = _last_start(self._run / EVENTS)
        if "run_id" not in self._cursor:
            self._cursor["run_id"] = self._create_run(client)
            self._store_cursor()
            if lost:
                self._announce(
                    f"tracking: MLflow's run {lost} was deleted or is not in this store; "
                    f"the run goes on as {self._cursor['run_id']}, with all its events"
                )
        run_id = self._cursor["run_id"]
        if "described" not in self._cursor:
            log_batch(client, run_id, parameters=parameters_of(self._parameters), tags=source_tags())
            client.log_artifact(run_id, str(self._run / "config.yaml"))
            self._cursor["described"] = True
            self._store_cursor()
        for kind, witness in WITNESSES.items():
            history = client.get_metric_history(run_id, witness)
            self._cursor[kind] = max([self._cursor[kind], *(point.step for point in history)])
        client.update_run(run_id, status="RUNNING")
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
                size += len(metrics_of(event))
                if size > METRICS_A_CALL - 100:
                    yield batch, end
                    batch, size = [], 0
        if batch:
            yield batch, end

    def _send(self, events: list[dict[str, Any]]) -> None:
        run_id = self._cursor["run_id"]
        metrics: list[Point] = []
        tags: dict[str, str] = {}
        constants: dict[str, Any] = {}
        for event in events:
            kind, step = event["event"], event.get("steps_done", 0)
            self._status = {"finish": "FINISHED", "interrupt": "KILLED", "resume": "FAILED"}.get(kind, self._status)
            self._newest[kind] = event
            tags |= tags_of(event)
            if kind in GROUPS and step > self._cursor[kind]:  # a resume repeats steps; the server gets each once
                self._cursor[kind] = step
                stamp = int(event["time"] * 1000)
                metrics += [(name, value, stamp, step) for name, value in metrics_of(event)]
            if kind not in self._cursor.setdefault("constants", []) and (found := constants_of(event)):
                constants |= found  # once a run, since MLflow refuses another value
                self._cursor["constants"].append(kind)
            if (dataset := dataset_of(event)) and self._cursor.get("dataset") != dataset["digest"]:
                log_dataset(self._client, run_id, dataset)
                self._log_card(event["data"]["path"])
                self._cursor["dataset"] = dataset["digest"]
        log_batch(self._client, run_id, metrics=metrics, parameters=constants, tags=tags)
        kinds = {event["event"] for event in events}
        if "evaluation" in kinds:
            self._report_meanwhile()
        if {"start", "resume", "evaluation"} & kinds:
            self._describe()

    def _describe(self) -> None:
        run_id = self._cursor["run_id"]
        report = run_page(self._client.get_run(run_id).info, f"artifacts/{self._report}") if self._report else None
        log_batch(self._client, run_id, tags=note_of(self._parameters, list(self._newest.values()), report))

    def _report_meanwhile(self) -> None:
        """Send a report of the run so far, from time to time, made by another process because plots take seconds."""
        if time.monotonic() - self._reported < _REPORT_SECONDS or self._closing.is_set():
            return
        ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # the other process is no rank
        environment = {key: value for key, value in os.environ.items() if key not in ranks}
        argv = [sys.executable, "-m", "dnachunker", "report", str(self._run)]
        quiet = subprocess.DEVNULL
        done = subprocess.run(argv, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
        self._reported = time.monotonic()
        if done.returncode == 0:
            from .report import REPORT

            self._log_report(self._run / REPORT)

    def _log_report(self, path: Path) -> None:
        self._client.log_artifact(self._cursor["run_id"], str(path))
        self._report = path.name

    def _log_card(self, corpus: str) -> None:
        """Send the corpus card, where the corpus has one."""
        if exists(join(corpus, _CARD)):
            with tempfile.TemporaryDirectory() as folder:
                card = Path(folder) / "corpus_card.html"
                card.write_bytes(read_bytes(join(corpus, _CARD)))
                self._client.log_artifact(self._cursor["run_id"], str(card))

    def _finish(self) -> None:
        self._client.set_terminated(self._cursor["run_id"], status=self._status)
        if self._status == "FINISHED":
            from .report import write_report

            self._log_report(write_report(self._run))
            self._describe()

    def _create_run(self, client: Any) -> str:
        """The id of a new run. A run that an earlier try made, and whose answer was lost, is found by its token."""
        settings = self._settings
        experiment = experiment_id(client, settings.experiment, self._uri, COLUMNS, COLUMNS[0])
        name = client.get_experiment(experiment).name
        if name != settings.experiment:
            self._announce(
                f"tracking: MLflow's experiment {settings.experiment} was deleted; the run is in {name} "
                f"(`mlflow experiments restore` brings the other one back)"
            )
        if "token" not in self._cursor:
            self._cursor["token"] = secrets.token_hex(8)
            self._store_cursor()
        else:
            made = client.search_runs([experiment], f"tags.`{_TOKEN_TAG}` = '{self._cursor['token']}'")
            if made:
                return str(made[0].info.run_id)
        tags = {_TOKEN_TAG: self._cursor["token"]}
        tags |= {PARENT_TAG: settings.parent_run} if settings.parent_run else {}
        tags |= {_REPLACES_TAG: self._cursor["replaces"]} if "replaces" in self._cursor else {}
        run = client.create_run(experiment, run_name=settings.run_name or self._run.name, tags=tags)
        return str(run.info.run_id)

    def _store_cursor(self) -> None:
        write_json(self._run / _CURSOR, self._cursor)


def read_cursor(run: Path) -> dict[str, Any]:
    """`run_id` and the last mirrored `step` and `evaluation`; without `run_id` before MLflow has answered."""
    path = run / _CURSOR
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _last_start(events: Path) -> int:
    """Where the newest training of a run folder begins in its event log, in bytes."""
    begin = offset = 0
    with events.open("rb") as file:
        for line in file:
            begin = offset if line.startswith(b'{"event": "start"') else begin
            offset += len(line)
    return begin

"""The MLflow replay: a server that goes away and comes back gets every point once, and training never waits for it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnachunker.foundations.mlflow_client import connect
from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.records.event_log import EventLog
from dnachunker.pretrain.records.mlflow_mirror import MlflowMirror, read_cursor
from dnachunker.pretrain.run_folder import store_config


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnachunker.pretrain.records.mlflow_mirror._PAUSE_SECONDS", 0.1)


def config_of(run: Path, uri: str | None, **tracking: str) -> PretrainConfig:
    values = {"run": str(run), "steps": 9, "data": {"corpus": "c"}, "tracking": {"uri": uri, **tracking}}
    return validate_config(PretrainConfig, values, origin="test")


def mirror_of(run: Path, config: PretrainConfig, announce: Callable[[str], None], *, fresh: bool) -> MlflowMirror:
    return MlflowMirror(run, config.tracking, config.model_dump(mode="json"), announce, fresh=fresh)


def write_steps(log: EventLog, mirror: MlflowMirror, steps: range) -> None:
    for step in steps:
        log.write("step", steps_done=step, loss=1.0 / step, system={"node0": {"cpu_percent": 50.0}})
        mirror.wake()


def history(uri: str, run: Path, name: str) -> list[tuple[int, float]]:
    query = f"run_id={read_cursor(run)['run_id']}&metric_key={name}"
    with urllib.request.urlopen(f"{uri}/api/2.0/mlflow/metrics/get-history?{query}") as answer:
        return [(point.get("step", 0), point["value"]) for point in json.load(answer).get("metrics", [])]


def start_server(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen([*command, *store], stdout=quiet, stderr=quiet, start_new_session=True, cwd=folder)
    until(lambda: answers(port), "the server never answered")
    return server


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until(condition: Callable[[], Any], complaint: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.faults
def test_a_server_that_dies_and_returns_during_the_run_gets_every_point_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnachunker.pretrain.records.mlflow_mirror._RETRY_SECONDS", (0.2, 1.0))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri, run, said = f"http://127.0.0.1:{port}", tmp_path / "run", []
    store_config(config_of(run, uri))
    server = start_server(tmp_path, port)
    try:
        log = EventLog(run)
        mirror = mirror_of(run, config_of(run, uri), said.append, fresh=True)
        log.write(
            "start",
            steps_done=0,
            world_size=2,
            machines=[{"host": "a"}],
            versions={},
            code={"commit": "abc"},
            parent={"model": "human", "fingerprint": "ab12"},
        )
        log.write("evaluation", steps_done=0, masked_loss=1.4)  # of a run that starts from a parent
        write_steps(log, mirror, range(1, 4))
        until(lambda: read_cursor(run).get("step") == 3, "the first steps never arrived")
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        write_steps(log, mirror, range(4, 7))
        until(lambda: said, "the failure was not told")
        server = start_server(tmp_path, port)
        until(lambda: read_cursor(run).get("step") == 6, "it did not catch up while the run went on")
        write_steps(log, mirror, range(7, 9))
        mirror.close()
        assert [line.partition(" (")[0] for line in said] == [
            "tracking: MLflow fails", "tracking: MLflow answers again and has caught up",
        ]  # fmt: skip

        # a second process repeats steps, as after a crash, with a cursor that a lost answer left behind
        (run / "mlflow.json").write_text(json.dumps(read_cursor(run) | {"step": 5}))
        mirror = mirror_of(run, config_of(run, uri), said.append, fresh=False)
        log.write("resume", steps_done=6, world_size=2)
        write_steps(log, mirror, range(7, 10))
        log.write("finish", steps_done=9)
        mirror.close()
        log.close()
        assert history(uri, run, "train/loss") == [(step, 1.0 / step) for step in range(1, 10)]
        assert len(history(uri, run, "system/node0/cpu_percent")) == 9
        assert history(uri, run, "valid/masked_loss") == [(0, 1.4)]
        with urllib.request.urlopen(f"{uri}/api/2.0/mlflow/runs/get?run_id={read_cursor(run)['run_id']}") as answer:
            record = json.load(answer)["run"]
        assert record["info"]["status"] == "FINISHED"
        assert {"key": "data.seq_len", "value": "1024"} in record["data"]["params"]
        tags = {tag["key"]: tag["value"] for tag in record["data"]["tags"]}
        assert tags["mlflow.source.git.commit"] == "abc"
        assert json.loads(tags["parent"])["fingerprint"] == "ab12"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def client_of(folder: Path) -> tuple[str, Any]:
    """An SQLite store and its client; nothing in this process has opened the store before."""
    uri = f"sqlite:///{folder}/tracking.db"
    return uri, connect(uri)


def train(run: Path, config: PretrainConfig, steps: range, said: list[str], *, last: bool = False) -> None:
    """Log as a training process does that begins at `steps`, and wait until MLflow has everything."""
    store_config(config)
    fresh = steps.start == 1
    with contextlib.closing(EventLog(run)) as log:
        mirror = mirror_of(run, config, said.append, fresh=fresh)
        data = {"name": "c", "path": str(run), "species": ["yeast (baker's)"], "splits": {"train": 90, "valid": 10}}
        about = {"versions": {"torch": "2"}, "code": {"commit": "abc"}, "data": data, "corpus": "f" * 64}
        log.write("start" if fresh else "resume", steps_done=steps.start - 1, device="cpu", parameters=1000, **about)
        write_steps(log, mirror, steps)
        order, species = {"order5_loss": 1.5}, {"yeast (baker's)": {"masked_loss": 1.25, "order5_loss": 1.5}}
        scores = {"masked_loss": 1.25, "compression": {"stage0": 0.5}, "species": species}
        log.write("evaluation", steps_done=steps.stop - 1, windows=64, **scores, **order)
        if last:
            log.write("interrupt", steps_done=steps.stop - 1)
        mirror.close()


def steps_of(client: Any, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "train/loss")]


def test_a_run_can_be_found_and_read_without_opening_its_files(tmp_path: Path) -> None:
    uri, client = client_of(tmp_path)
    run = tmp_path / "run"
    train(run, config_of(run, uri), range(1, 4), [], last=True)
    (experiment,) = [e for e in client.search_experiments() if e.name == "dnachunker"]
    (found,) = client.search_runs([experiment.experiment_id], "tags.device = 'cpu' and tags.`version.torch` = '2'")
    assert found.info.status == "KILLED"
    assert found.data.tags["mlflow.source.git.commit"] == "abc"
    assert found.data.metrics["headline/loss_minus_order5"] == -0.25
    assert found.data.metrics["headline/unmasked_compression_stage0"] == 0.5
    assert found.data.params["held_out.order5_loss"] == "1.5"
    assert found.data.params["held_out.windows"] == "64"
    assert "valid/species/yeast _baker_s_/masked_loss" in found.data.metrics
    assert not [name for name in found.data.metrics if "order5_loss" in name]
    note = found.data.tags["mlflow.note.content"]
    assert "**-0.2500 nats a base" in note
    assert "train 90, valid 10" in note
    (corpus,) = found.inputs.dataset_inputs
    assert corpus.dataset.name == "c"
    assert json.loads(corpus.dataset.profile)["bases_valid"] == 10
    view = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.dnachunker"])["state"])
    assert view["orderByKey"] == "metrics.`headline/loss_minus_order5`"


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_after_a_deletion_a_new_run_gets_every_event_and_names_the_old_one(what: str, tmp_path: Path) -> None:
    uri, client = client_of(tmp_path)
    run, said = tmp_path / "run", list[str]()
    train(run, config_of(run, uri), range(1, 4), said)
    first = read_cursor(run)["run_id"]
    if what == "run":
        client.delete_run(first)
    else:
        client.delete_experiment(client.get_run(first).info.experiment_id)
    train(run, config_of(run, uri), range(4, 6), said)
    second = read_cursor(run)["run_id"]
    assert steps_of(client, second) == [1, 2, 3, 4, 5]
    assert client.get_run(second).data.tags["dnachunker.replaces"] == first
    assert len(said) == (1 if what == "run" else 2)
    assert first in said[-1]
    assert second in said[-1]
    name = client.get_experiment(client.get_run(second).info.experiment_id).name
    assert name == ("dnachunker" if what == "run" else "dnachunker-2")


def test_tries_that_fail_after_the_run_was_made_leave_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to `create_run` is lost, then parameters are not taken."""
    monkeypatch.setattr("dnachunker.pretrain.records.mlflow_mirror._RETRY_SECONDS", (0.05, 0.1))
    uri, client = client_of(tmp_path)
    create, batch, failures = type(client).create_run, type(client).log_batch, [1, 1, 1]

    def create_run(self: Any, *arguments: Any, **options: Any) -> Any:
        made = create(self, *arguments, **options)
        if len(failures) == 3:
            failures.pop()
            raise OSError("no answer")
        return made

    def log(self: Any, *arguments: Any, **options: Any) -> None:
        if failures:
            failures.pop()
            raise OSError("no answer")
        batch(self, *arguments, **options)

    monkeypatch.setattr(type(client), "create_run", create_run)
    monkeypatch.setattr(type(client), "log_batch", log)
    run = tmp_path / "run"
    config = config_of(run, uri)
    store_config(config)
    with contextlib.closing(EventLog(run)) as log_file:
        mirror = mirror_of(run, config, lambda _: None, fresh=True)
        write_steps(log_file, mirror, range(1, 4))
        until(lambda: read_cursor(run).get("step") == 3, "the steps never arrived")
        mirror.close()
    runs = client.search_runs([client.get_experiment_by_name("dnachunker").experiment_id])
    assert [made.info.run_id for made in runs] == [read_cursor(run)["run_id"]]
    assert steps_of(client, runs[0].info.run_id) == [1, 2, 3]


def test_a_run_of_a_sweep_is_nested_under_its_parent(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/tracking.db"
    client = MlflowClient(tracking_uri=uri)
    parent = client.create_run(client.create_experiment("sweep", (tmp_path / "artifacts").as_uri()))
    run = tmp_path / "run"
    config = config_of(run, uri, experiment="sweep", parent_run=parent.info.run_id)
    store_config(config)
    with contextlib.closing(EventLog(run)) as log:
        mirror = mirror_of(run, config, print, fresh=True)
        write_steps(log, mirror, range(1, 3))
        mirror.close()
    nested = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert [child.info.run_name for child in nested] == ["run"]
    assert nested[0].data.metrics["train/loss"] == 0.5

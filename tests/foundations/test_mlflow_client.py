"""What every package asks of MLflow: a store that many open at once, what is redacted, how much one call carries."""

import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.mlflow_client import (
    METRICS_A_CALL,
    connect,
    error_line,
    experiment_id,
    legal_name,
    log_batch,
)
from dnachunker.foundations.mlflow_store import redacted, tracking_uri


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, to be copied: MLflow takes a second to make one."""
    folder = tmp_path_factory.mktemp("empty")
    connect(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


def store_in(folder: Path, empty: Path) -> str:
    """The URI of the store of the runs in `folder`, which is made with an empty store in it."""
    folder.mkdir(exist_ok=True)
    shutil.copy(empty, folder)
    return tracking_uri(None, folder / "run")


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_passwords_in_urls_do_not_reach_logs() -> None:
    assert redacted("GET http://ada:secret@host:5000/x failed") == "GET http://***@host:5000/x failed"
    assert error_line(OSError("no\n  http://ada:secret@host")) == "OSError: no http://***@host"


def test_an_explicit_uri_comes_first_then_the_environment_then_the_store_beside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri("http://other", run) == "http://other"
    assert tracking_uri(None, run) == "http://server"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri(None, run) == tracking_uri(None, tmp_path / "other") == f"sqlite:///{tmp_path}/mlflow.db"
    run.mkdir()
    (run / "mlflow.db").touch()
    assert tracking_uri(None, run) == f"sqlite:///{run}/mlflow.db", "a run of an earlier version keeps its store"


@pytest.mark.parametrize("name", ["what?x=1", "%41b", "100%done", "run#2", "läuf 1", "a:b", "[x]", "run'quote"])
def test_a_store_in_a_folder_of_any_name_lies_in_that_folder(name: str, tmp_path: Path, empty: Path) -> None:
    folder = tmp_path / name
    uri = store_in(folder, empty)
    client = connect(uri)
    run = client.create_run(experiment_id(client, "x", uri)).info.run_id
    assert connect(tracking_uri(None, folder / "run")).get_run(run).info.run_id == run
    assert sorted(path.name for path in folder.iterdir()) == [".mlflow.lock", "mlflow.db"]
    assert list(tmp_path.iterdir()) == [folder], "nothing is made beside the folder"


def test_a_batch_of_any_size_arrives_and_an_experiment_is_made_once(tmp_path: Path, empty: Path) -> None:
    uri = store_in(tmp_path, empty)
    client = connect(uri)
    experiment = experiment_id(client, "x", uri, ["metrics.`loss`"], "metrics.`loss`")
    assert experiment_id(client, "x", uri) == experiment
    assert client.get_experiment(experiment).tags["mlflow.experimentKind"] == "custom_model_development"
    run = client.create_run(experiment).info
    points = [("loss", float(step), 0, step) for step in range(METRICS_A_CALL + 300)]
    many = {f"key {number}": "http://ada:secret@host" for number in range(250)}
    log_batch(client, run.run_id, metrics=points, parameters=many, tags={"a": "b"})
    log_batch(client, run.run_id)
    assert [point.step for point in client.get_metric_history(run.run_id, "loss")] == list(range(len(points)))
    data = client.get_run(run.run_id).data
    assert data.params == dict.fromkeys(many, "http://***@host")
    assert data.tags["a"] == "b"


def test_artifacts_are_found_after_the_folder_was_moved(tmp_path: Path, empty: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after 50%"
    uri = store_in(before, empty)
    client = connect(uri)
    run = client.create_run(experiment_id(client, "x", uri)).info
    client.log_text(run.run_id, "hello", "note.txt")
    shutil.move(before, after)
    moved = connect(tracking_uri(None, after / "run"))
    assert [file.path for file in moved.list_artifacts(run.run_id)] == ["note.txt"]
    assert Path(moved.download_artifacts(run.run_id, "note.txt")).read_text() == "hello"
    moved.log_text(moved.create_run(run.experiment_id).info.run_id, "again", "note.txt")
    assert not before.exists()


def test_an_experiment_that_was_deleted_leaves_its_name_and_the_next_gets_another(tmp_path: Path, empty: Path) -> None:
    uri = store_in(tmp_path, empty)
    client = connect(uri)
    client.delete_experiment(experiment_id(client, "x", uri))
    second = experiment_id(client, "x", uri)
    assert client.get_experiment(second).name == "x-2"
    assert experiment_id(client, "x", uri) == second


@pytest.mark.parametrize("part", ["baker's (yeast)", "", ".", "..", "a/b", "é", "x" * 300])
def test_mlflow_takes_every_cleaned_key(part: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(legal_name("species", part, "loss"))


@pytest.mark.parametrize(
    ("version", "remedy"),
    [("0584bdc529eb", "mlflow db upgrade sqlite:///"), ("f" * 12, "pip install --upgrade mlflow")],
)
def test_a_store_of_another_mlflow_is_refused_with_the_command_that_helps(
    version: str, remedy: str, tmp_path: Path, empty: Path
) -> None:
    """The first version is one of MLflow's own, and the second is of none so far."""
    uri = store_in(tmp_path, empty)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    with pytest.raises(BadInput, match=remedy) as caught:
        connect(uri)
    assert "\n" not in str(caught.value)


def write_a_run(uri: str, number: int) -> None:
    client = connect(uri)
    run = client.create_run(experiment_id(client, "x", uri), run_name=str(number)).info.run_id
    for step in range(10):
        log_batch(client, run, metrics=[("loss", float(step), 0, step)], tags={"step": str(step)})


def test_processes_that_open_a_new_store_at_once_and_write_meet_no_lock(tmp_path: Path) -> None:
    uri = tracking_uri(None, tmp_path / "run")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_a_run, args=(uri, number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    client = connect(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "x"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"0", "1", "2"}
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 10

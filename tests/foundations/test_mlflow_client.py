"""What every package asks of MLflow: where results go, what is redacted, how much one call carries."""

from pathlib import Path

import pytest

from dnachunker.foundations.mlflow_client import (
    METRICS_A_CALL,
    connect,
    error_line,
    experiment_id,
    log_batch,
    redacted,
    tracking_uri,
)


def test_passwords_in_urls_do_not_reach_logs() -> None:
    assert redacted("GET http://ada:secret@host:5000/x failed") == "GET http://***@host:5000/x failed"
    assert error_line(OSError("no\n  http://ada:secret@host")) == "OSError: no http://***@host"


def test_an_explicit_uri_comes_first_then_the_environment_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri("http://other", tmp_path) == "http://other"
    assert tracking_uri(None, tmp_path) == "http://server"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("name", ["what?x=1", "%41b", "100%done", "run#2", "läuf 1", "a:b", "[x]", "run'quote"])
def test_any_name_of_a_run_folder_keeps_its_own_store(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / name
    folder.mkdir()
    uri = tracking_uri(None, folder)
    client = connect(uri)
    run = client.create_run(experiment_id(client, "x", uri, folder)).info.run_id
    assert connect(tracking_uri(None, folder)).get_run(run).info.run_id == run
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    assert list(tmp_path.iterdir()) == [folder], "nothing is made beside the run folder"


def test_a_batch_of_any_size_arrives_and_an_experiment_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking_uri(None, tmp_path)
    client = connect(uri)
    experiment = experiment_id(client, "x", uri, tmp_path)
    assert experiment_id(client, "x", uri, tmp_path) == experiment
    run = client.create_run(experiment).info
    assert run.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    points = [("loss", float(step), 0, step) for step in range(METRICS_A_CALL + 300)]
    log_batch(client, run.run_id, metrics=points, parameters={"server": "http://ada:secret@host"}, tags={"a": "b"})
    log_batch(client, run.run_id)
    assert [point.step for point in client.get_metric_history(run.run_id, "loss")] == list(range(len(points)))
    data = client.get_run(run.run_id).data
    assert data.params == {"server": "http://***@host"}
    assert data.tags["a"] == "b"

"""`dnachunker dashboard`: which store it opens, which page it names, and what it refuses in one line."""

import socket
from pathlib import Path

import pytest

from dnachunker.cli import main
from dnachunker.dashboard import addresses, store_of
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.mlflow_client import connect, experiment_id
from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.run_folder import store_config


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def make_run(run: Path, uri: str | None = None) -> Path:
    values = {"run": str(run), "steps": 9, "data": {"corpus": "c"}, "tracking": {"uri": uri}}
    store_config(validate_config(PretrainConfig, values, origin="test"))
    return run


def test_a_run_and_its_folder_name_the_same_store(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "first")
    (tmp_path / "runs" / "mlflow.db").touch()
    shared = f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert store_of(str(run)) == store_of(str(run.parent)) == shared
    assert store_of(str(make_run(tmp_path / "runs" / "other", "http://server"))) == "http://server"
    (run / "mlflow.db").touch()
    assert store_of(str(run)) == f"sqlite:///{run}/mlflow.db", "a run of an earlier version has its own"
    assert store_of("postgresql://host/db") == "postgresql://host/db"


def test_without_a_place_the_environment_counts_then_the_folder_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="^runs: no such folder"):
        store_of(None)
    make_run(tmp_path / "runs" / "first")
    (tmp_path / "runs" / "mlflow.db").touch()
    assert store_of(None) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert store_of(None) == "http://server"


def test_a_folder_without_a_store_is_refused_and_stores_below_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "demo" / "run")
    assert main(["dashboard", str(tmp_path / "demo" / "run")]) == 2
    assert "`dnachunker pretrain` makes one" in capsys.readouterr().err
    (tmp_path / "demo" / "mlflow.db").touch()
    assert main(["dashboard", str(tmp_path)]) == 2
    assert f"there is one in {tmp_path / 'demo'}\n" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_each_experiment_opens_at_its_runs_the_latest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    ids = {name: experiment_id(client, name, uri, ["metrics.`loss`"], "metrics.`loss`") for name in ("old", "new")}
    experiment_id(client, "empty", uri)
    client.create_run(ids["old"], start_time=1)
    client.create_run(ids["new"], start_time=2)
    query = "workflowType=machine_learning&viewStateShareKey=dnachunker"
    assert list(addresses(client, "http://s").items()) == [
        (name, f"http://s/#/experiments/{ids[name]}/runs?{query}") for name in ("new", "old")
    ]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["dashboard", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be used; choose another one" in capsys.readouterr().err

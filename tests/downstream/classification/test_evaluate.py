"""`dnachunker evaluate`: resumes to the same table, and opens no test file before settings are chosen."""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dnachunker.cli import main
from dnachunker.downstream.classification.protocol import Cell
from dnachunker.downstream.tasks.metrics import score

SMALL = (
    "folds=2", "seeds=1", "learning_rates=[1e-3,3e-3]", "batch_sizes=[16]",
    "training.epochs=1", "training.kmer=3", "training.bootstrap=20", "training.rc_average=false",
)  # fmt: skip

_opened: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | Path):
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)  # sees every file that Python opens in this process; cannot be removed, only ignored


def evaluate_argv(export: Path, tasks: Path, output: Path, *more: str) -> list[str]:
    where = ["--model", str(export), "--suite", str(tasks), "--output", str(output)]
    return ["evaluate", *where, "--method", "full", "--method", "kmer", "--config", "quick", *more, *SMALL]


@pytest.fixture(scope="module")
def evaluated(export: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An evaluation that nothing interrupted, and the files that it opened, in order."""
    global _opened
    output = tmp_path_factory.mktemp("evaluated") / "out"
    _opened = []
    try:
        assert main(evaluate_argv(export, tasks, output, "--mlflow", "none")) == 0
        return output, _opened
    finally:
        _opened = None


def test_no_test_file_is_opened_before_the_choice_is_written(evaluated: tuple[Path, list[str]], tasks: Path) -> None:
    output, opened = evaluated
    tests = [number for number, path in enumerate(opened) if Path(path).name.startswith("test.csv")]
    choice = next(number for number, path in enumerate(opened) if path.endswith("selected.json"))
    trained = [number for number, path in enumerate(opened) if Path(path).name.startswith("train.csv")]
    assert len(tests) == 3 * 2  # tasks, methods; one seed
    assert trained[0] < choice < tests[0]
    # selection reads no test file
    assert len(list(output.glob("cells/*/full/select-*.json"))) == 3 * 2 * 2


def test_the_choice_is_the_best_fold_mean_and_scores_are_those_of_the_predictions(
    evaluated: tuple[Path, list[str]],
) -> None:
    output, _ = evaluated
    settings = list(csv.DictReader((output / "selection.csv").open()))
    for task in ("one", "two", "three"):
        ours = [row for row in settings if (row["task"], row["method"]) == (task, "full")]
        assert len(ours) == 2
        chosen = next(row for row in ours if row["chosen"] == "1")
        assert float(chosen["validation_mean"]) == max(float(row["validation_mean"]) for row in ours)
    for path in output.glob("cells/*/*/test-*.parquet"):
        table = pq.read_table(path).to_pandas()
        record = json.loads(path.with_suffix(".json").read_text())
        probabilities = table.filter(like="probability").to_numpy()
        assert record["scores"]["mcc"] == score(table["label"].to_numpy(), probabilities, "mcc")


@pytest.mark.slow
def test_killed_at_half_it_continues_to_the_same_table(
    evaluated: tuple[Path, list[str]], export: Path, tasks: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = [sys.executable, "-m", "dnachunker", *evaluate_argv(export, tasks, output, "--mlflow", "none")]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    total = len(list(evaluated[0].glob("cells/*/*/*.json")))
    while len(list(output.glob("cells/*/*/*.json"))) < total // 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in output.glob("cells/*/*/[st]*.json")}
    assert not (output / "table.md").exists()
    done = subprocess.run([*arguments[:3], *evaluate_argv(export, tasks, output)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("table.md", "table.csv", "table.html", "selection.csv"):
        assert (output / name).read_text() == (evaluated[0] / name).read_text()
    assert {path: path.stat().st_mtime_ns for path in before} == before  # finished cells did not run again
    check_mlflow(output)


def test_other_data_under_the_same_names_are_refused(
    export: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tasks / "one", tmp_path / "data" / "one")
    monkeypatch.chdir(tmp_path)
    cells: list[Cell] = []
    monkeypatch.setattr(
        "dnachunker.downstream.classification.evaluate._run_missing", lambda found, *_: cells.extend(found)
    )
    assert main(evaluate_argv(export, Path("data"), Path("out"), "--mlflow", "none")) == 2  # for nothing has run
    assert {cell.result.is_absolute() and cell.train.is_absolute() for cell in cells if cell.train} == {True}
    train = tmp_path / "data" / "one" / "train.csv.gz"
    lines = gzip.decompress(train.read_bytes()).decode().splitlines()
    train.write_bytes(gzip.compress("\n".join([lines[0], *lines[:0:-1]]).encode()))  # the same in another order
    capsys.readouterr()
    assert main(evaluate_argv(export, Path("data"), Path("out"), "--mlflow", "none")) == 2
    assert "was made with data of one" in capsys.readouterr().err


def check_mlflow(output: Path) -> None:
    """One parent, in which a run for each task and method is nested; sending the results again changes nothing."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{output.parent / 'mlflow.db'}")
    stored = json.loads((output / "mlflow.json").read_text())
    runs = client.search_runs([client.get_experiment_by_name("dnachunker-evaluate").experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == stored["run_id"]]
    assert len(runs) == 1 + len(children) == 1 + 3 * 2
    for run in children:
        assert "test/mcc" in run.data.metrics


@pytest.mark.slow
def test_ray_gives_the_same_table(export: Path, tasks: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in each of two workers on two cores
    for name, ray in (("out", ("--ray", "local", "--workers", "2")), ("alone", ())):
        one = evaluate_argv(export, tasks / "one", tmp_path / name, "--mlflow", "none", *ray)
        done = subprocess.run(
            [sys.executable, "-m", "dnachunker", *one], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "table.csv").read_text() == (tmp_path / "alone" / "table.csv").read_text()


def test_a_class_without_enough_sequences_and_a_missing_suite_give_one_line(
    export: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["evaluate", "--model", str(export), "--output", str(tmp_path / "out")]
    assert main([*where, "--suite", "nt"]) == 2
    assert "--data is missing" in capsys.readouterr().err
    assert main([*where, "--suite", "glue"]) == 2
    assert "none of nt, nt-revised, genomic-benchmarks, gue, and no folder" in capsys.readouterr().err
    shutil.copytree(tasks / "one", tmp_path / "data" / "one")
    assert main([*where, "--suite", str(tmp_path / "data"), "folds=50", "--mlflow", "none"]) == 2
    assert "50 folds need 50 sequences of each class" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

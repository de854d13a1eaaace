"""`dnachunker sweep`: resumes to the same table, keeps what is finished, and goes on where a cell fails."""

import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy_sweep import sweep_command

from dnachunker.downstream.tasks.task_folders import find_task
from dnachunker.experiments.budget import network_of
from dnachunker.foundations.typed_config import load_config
from dnachunker.model.cost import flops_per_base
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.records.event_log import read_events

Sweep = Callable[..., Any]
TABLES = ("table.md", "table.csv", "cells.csv", "sweep.html")
CELLS = [("plain", 0), ("conv", 0), ("plain", 1), ("conv", 1)]


def commands(path: Path) -> Counter[str]:
    """How often each command ran, by verb and cell."""
    given = [json.loads(line) for line in path.read_text().splitlines()]
    found = (next((m[0] for word in words if (m := re.search(r"cells/[^/]+/seed-\d+", word))), "") for words in given)
    return Counter(f"{words[0]} {cell}".strip() for words, cell in zip(given, found, strict=True))


def test_killed_twice_and_resumed_it_ends_in_the_same_tables(config: Path, sweep: Sweep, tmp_path: Path) -> None:
    whole, killed = tmp_path / "a" / "out", tmp_path / "b" / "out"
    assert sweep("--output", whole, "--jobs", "2").returncode == 0
    pause = random.Random(0)
    for alone in (False, True):
        process = subprocess.Popen(sweep_command(config, "--output", killed, "--jobs", "2"), stderr=subprocess.PIPE)
        assert process.stderr is not None
        line = b""
        while b": pretrain" not in line and b": export" not in line:
            line = process.stderr.readline()
            assert line, "it has ended"
        time.sleep(pause.uniform(0, 0.4))
        # first with all its processes, as when a machine goes down; then alone, so that its steps outlive it
        started = [] if alone else psutil.Process(process.pid).children(recursive=True)
        for victim in [psutil.Process(process.pid), *started]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait()
        assert not (killed / "table.md").exists() or "Not run yet" in (killed / "table.md").read_text()
    done = sweep("--output", killed, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    for name in TABLES:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_kill_during_the_first_writes_does_not_wedge_it(sweep: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cell = out / "cells" / "plain" / "seed-0"
    for left in (out / ".partial-77-sweep.yaml", cell / "options" / ".partial-77-options.json"):
        shutil.rmtree(cell, ignore_errors=True)
        left.parent.mkdir(parents=True)
        left.write_text("{")
        done = sweep("--output", out, "--cell", "plain:0")
        assert done.returncode == 0, done.stderr
        assert (cell / "result.json").is_file()


def test_nothing_that_is_finished_runs_again(config: Path, sweep: Sweep, tmp_path: Path) -> None:
    count, out = tmp_path / "count", tmp_path / "out"
    assert sweep("--output", out, "seeds=[0]", STUB_COUNT=str(count)).returncode == 0
    assert sweep("--output", out, "seeds=[0]", STUB_COUNT=str(count)).returncode == 0
    cells = [f"cells/{row}/seed-0" for row in ("plain", "conv")]
    expected = {
        "shard",
        *(f"{verb} {cell}" for cell in cells for verb in ("pretrain", "export", "finetune", "segment")),
    }
    assert commands(count) == dict.fromkeys(expected, 1)
    # another seed and another analysis: neither trains a finished cell again
    more = 'analyses.again={"command": [segment, "--output", "{output}", x], "read": summary.json}'
    assert sweep("--output", out, "seeds=[0,1]", more, STUB_COUNT=str(count)).returncode == 0
    counted = commands(count)
    assert counted["pretrain cells/plain/seed-0"] == counted["pretrain cells/plain/seed-1"] == 1
    assert counted["segment cells/plain/seed-0"] == 2
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], int(row["seed"])) for row in rows] == [(r, s) for r in ("plain", "conv") for s in (0, 1)]
    assert all(row["again.mean_chunk_bases.1"] == "9.0" and row["cuts.mean_chunk_bases.0"] == "3.0" for row in rows)


def test_a_changed_training_config_is_refused_by_name(sweep: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sweep("--output", out, "seeds=[0]").returncode == 0
    stored = out / "cells" / "plain" / "seed-0" / "options" / "options.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"optimizer.beta1": 0.9}))
    assert sweep("--output", out, "seeds=[0]").returncode == 0, "a key at its default is the same as none"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = sweep("--output", out, "seeds=[0]", "scales.tiny.overrides=[optimizer.lr=0.5]")
    assert done.returncode == 2
    assert "cells/plain/seed-0" in done.stderr.splitlines()[-1]
    assert "optimizer.lr" in done.stderr.splitlines()[-1]
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_failed_cell_is_reported_and_the_others_go_on(sweep: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = sweep("--output", out, STUB_FAIL="model.mixer=conv")
    assert done.returncode == 1
    table = (out / "table.md").read_text()
    for seed in (0, 1):
        assert f"FAILED: conv, seed {seed}: pretrain ended with exit code 4: guard: the loss is not finite" in table
    assert re.search(r"^\| plain \| 2 \|", table, re.MULTILINE)
    assert "cells failed" in (out / "sweep.html").read_text()
    healed = sweep("--output", out)
    assert healed.returncode == 0, healed.stderr
    assert "FAILED" not in (out / "table.md").read_text()


def test_results_that_are_no_numbers_fail_their_cell_or_are_left_out(sweep: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cell = out / "cells" / "plain" / "seed-0"
    odd = sweep("--output", out, "--cell", "plain:0", STUB_SUMMARY="5")
    assert odd.returncode == 1
    assert "Traceback" not in odd.stderr
    assert "results cannot be read" in json.loads((cell / "failure.json").read_text())["reason"]
    shutil.rmtree(next(cell.glob("cuts-*")))
    empty = sweep("--output", out, "--cell", "plain:0", STUB_SUMMARY='{"mean_chunk_bases": [NaN, 9.0]}')
    assert empty.returncode == 0, empty.stderr
    metrics = json.loads((cell / "result.json").read_text())["metrics"]
    assert [name for name in metrics if name.startswith("cuts.")] == ["cuts.mean_chunk_bases.1"]


def test_tables_are_refused_where_they_would_say_something_else(sweep: Sweep, tmp_path: Path) -> None:
    none = tmp_path / "none"
    none.mkdir()
    done = sweep("--output", none, "--tables")
    assert done.returncode == 2
    assert "no sweep is there" in done.stderr
    assert not list(none.iterdir())

    out, data = tmp_path / "out", tmp_path / "tasks" / "promoters"
    assert sweep("--output", out, "--cell", "plain:0").returncode == 0
    for name in ("train.csv", "test.csv"):
        (data / name).write_text("sequence,label\nACGT,1\n")
    probed = next(out.glob("cells/plain/seed-0/probe-*/promoters/probe/result.json"))
    probed.write_text(json.dumps(json.loads(probed.read_text()) | {"data": find_task(data).identity()}))
    assert sweep("--output", out, "--tables", "seeds=[0]").returncode == 1, "conv is missing"
    before = (out / "table.md").read_text()
    budget = sweep("--output", out, "--tables", "scales.tiny.budget.bases=131072")
    assert budget.returncode == 2
    assert "was made with steps 8" in budget.stderr
    (data / "train.csv").write_text("sequence,label\nACGT,0\n")
    for arguments in (("--tables",), ("--cell", "plain:0")):
        other = sweep("--output", out, *arguments)
        assert other.returncode == 2
        assert "other data than" in other.stderr
    assert (out / "table.md").read_text() == before


def test_a_signal_stops_it_and_the_same_command_goes_on(config: Path, sweep: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(sweep_command(config, "--output", out), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "plain:0: pretrain" not in (line := process.stderr.readline()):
        assert line, "it has ended"
    while not (started := psutil.Process(process.pid).children(recursive=True)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait() == 3, rest
    assert rest.splitlines()[-1] == "dnachunker: stopped; run the same command to continue"
    assert not any(child.is_running() for child in started)
    assert sweep("--output", out).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_on_ray_too(
    config: Path, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    out, count = tmp_path / "out", tmp_path / "count"
    monkeypatch.setenv("STUB_COUNT", str(count))
    monkeypatch.setenv("STUB_STEP_SECONDS", "60")
    command = sweep_command(config, "--output", out, "--on", "ray", "--jobs", "2")
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup this process ignores SIGHUP
    )  # fmt: skip
    deadline = time.monotonic() + 300
    try:
        while not count.exists() or count.read_text().count('"pretrain"') < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 3, said
    assert said.splitlines()[-1] == "dnachunker: stopped; run the same command to continue"
    trained = [p for p in psutil.process_iter(["cmdline"]) if str(out) in " ".join(p.info["cmdline"] or ())]
    assert not trained, "no command outlives the sweep"
    assert count.read_text().count('"pretrain"') == 2, "none was started after the signal"
    assert not list(out.glob(".ray-*"))
    monkeypatch.delenv("STUB_STEP_SECONDS")
    assert sweep("--output", out).returncode == 0


def test_one_cell_at_a_time_and_then_the_tables(sweep: Sweep, tmp_path: Path) -> None:
    whole, parts = tmp_path / "a" / "out", tmp_path / "b" / "out"
    assert sweep("--output", whole).returncode == 0
    for row, seed in CELLS:
        assert not (parts / "table.md").exists()
        assert sweep("--output", parts, "--cell", f"{row}:{seed}").returncode == 0
    assert sweep("--output", parts, "--tables").returncode == 0
    for name in TABLES:
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    unknown = sweep("--output", parts, "--cell", "plain:7")
    assert unknown.returncode == 2
    assert "plain:0, conv:0, plain:1, conv:1" in unknown.stderr


def test_what_was_spent_is_the_sum_over_the_steps(sweep: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sweep("--output", out, "--cell", "plain:0").returncode == 0
    cell = out / "cells" / "plain" / "seed-0"
    steps = [event for event in read_events(cell / "run") if event["event"] == "step"]
    metrics = json.loads((cell / "result.json").read_text())["metrics"]
    config = load_config(PretrainConfig, "tiny", kind="pretrain", settings={"run": "", "data.corpus": ""})
    shares = [(s["compression"]["stage0"], s["compression"]["stage0"] * s["compression"]["stage1"]) for s in steps]
    costs = [flops_per_base(network_of(config), config.data.seq_len, chunks).total for chunks in shares]
    assert len(set(costs)) == len(costs)
    assert metrics["flops"] == pytest.approx(sum(8192 * cost for cost in costs))


def test_the_numbers_of_the_table_are_those_of_the_runs(sweep: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sweep("--output", out).returncode == 0
    losses = {}
    for row, seed in CELLS:
        lines = (out / "cells" / row / f"seed-{seed}" / "run" / "events.jsonl").read_text().splitlines()
        losses[row, seed] = [json.loads(line) for line in lines if '"evaluation"' in line][-1]["masked_loss"]
    means = {row: (losses[row, 0] + losses[row, 1]) / 2 for row in ("plain", "conv")}
    spreads = {row: abs(losses[row, 0] - losses[row, 1]) / 2**0.5 for row in means}
    with (out / "table.csv").open() as file:
        for row in csv.DictReader(file):
            assert float(row["masked_loss_mean"]) == pytest.approx(means[row["row"]], abs=1e-8)
            assert float(row["masked_loss_sd"]) == pytest.approx(spreads[row["row"]], abs=1e-8)
            assert (row["seeds"], row["failed"], row["missing"]) == ("2", "0", "0")
    pairs = [losses["conv", seed] - losses["plain", seed] for seed in (0, 1)]
    shown = f"{sum(pairs) / 2:+.4f} ± {abs(pairs[0] - pairs[1]) / 2**0.5:.4f}"
    assert f"| {means['conv']:.4f} ± {spreads['conv']:.4f} | {shown} |" in (out / "table.md").read_text()


@pytest.mark.slow
def test_ray_runs_the_same_cells(sweep: Sweep, tmp_path: Path) -> None:
    here, there = tmp_path / "a" / "out", tmp_path / "b" / "out"
    assert sweep("--output", here).returncode == 0
    done = sweep("--output", there, "--on", "ray", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    for name in TABLES:
        assert (there / name).read_bytes() == (here / name).read_bytes(), name


def test_mlflow_has_one_run_in_which_the_cells_nest(sweep: Sweep, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    out, count = tmp_path / "out", tmp_path / "count"
    for _ in range(2):
        done = sweep(
            "--output", out, "seeds=[0]", "tracking.enabled=true", STUB_COUNT=str(count), MLFLOW_TRACKING_URI=""
        )
        assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "dnachunker-sweep"]
    (parent,) = client.search_runs([experiment.experiment_id])
    assert parent.info.status == "FINISHED"
    assert 1.2 < parent.data.metrics["plain/masked_loss"] < 1.5
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == set(TABLES)
    trained = [line for line in count.read_text().splitlines() if '"pretrain"' in line]
    assert len(trained) == 2
    assert all(f'tracking.parent_run=\\"{parent.info.run_id}\\"' in line for line in trained)


def test_the_export_of_the_best_cell_is_registered_once(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, registered, place = (
        tmp_path / "out",
        list[tuple[str, str, str]](),
        "dnachunker.experiments.results.mlflow_runs",
    )

    def register(uri: str, run_id: str, export: Path, name: str, *, step: int, alias: str) -> int:
        registered.append((run_id, name, alias))
        return 1

    monkeypatch.setattr(f"{place}.register_model", register)
    monkeypatch.setattr(f"{place}.alias_run", lambda *_: registered[-1][0] if registered else None)
    assert sweep("--output", out).returncode == 0
    losses = {}
    for result in out.rglob("result.json"):
        if (result.parent / "run").is_dir():
            cell = str(result.parent)
            losses[cell] = json.loads(result.read_text())["metrics"]["masked_loss"]
            (result.parent / "run" / "mlflow.json").write_text(json.dumps({"run_id": cell}))
            (result.parent / "export" / "export.json").write_text('{"step": 8}')
    assert len(losses) == 4
    for _ in range(2):
        assert sweep("--output", out, "--tables", "tracking.enabled=true", "tracking.register_as=dna").returncode == 0
    assert registered == [(min(losses, key=lambda cell: losses[cell]), "dna", "best")]


def test_the_page_is_self_contained(sweep: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sweep("--output", out, "seeds=[0]", "question='a <b>question</b>'").returncode == 0
    page = (out / "sweep.html").read_text()
    assert "a &lt;b&gt;question&lt;/b&gt;" in page
    assert not re.search(r'(src|href)="(?!#)', page), "nothing is loaded"
    assert page.count("<svg") > 5
    assert sys.executable in page, "the config it was made from"
    assert os.environ.get("HOME", "/nowhere") + "/." not in page

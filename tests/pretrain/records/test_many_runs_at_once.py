"""Eight runs that are mirrored to MLflow at the same time: every point arrives once, on SQLite and on PostgreSQL."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.records.event_log import EventLog
from dnachunker.pretrain.records.mlflow_mirror import read_cursor
from dnachunker.pretrain.run_folder import store_config

RUNS, STEPS = 8, 60
MIRROR = """
import sys, time
from pathlib import Path
from dnachunker.pretrain.records import mlflow_mirror
from dnachunker.pretrain.run_folder import read_config

mlflow_mirror._RETRY_SECONDS = (0.2, 1.0)
run = Path(sys.argv[1])
config = read_config(run)
say = lambda line: print(line, flush=True)
mirror = mlflow_mirror.MlflowMirror(run, config.tracking, {"seed": 1}, say, fresh=False)
while mlflow_mirror.read_cursor(run).get("step", 0) < int(sys.argv[2]):
    time.sleep(0.1)
mirror.close()
"""


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Run folders beside each other, each with the event log of a finished training."""
    found = [tmp_path / "runs" / str(number) for number in range(RUNS)]
    for run in found:
        values = {"run": str(run), "steps": STEPS, "data": {"corpus": "c"}}
        store_config(validate_config(PretrainConfig, values, origin="test"))
        with contextlib.closing(EventLog(run)) as log:
            log.write("start", steps_done=0, device="cpu")
            for step in range(1, STEPS + 1):
                many = {f"metric{number}": number / step for number in range(40)}
                log.write("step", steps_done=step, loss=1.0 / step, bases_per_second=1.0, utilisation=0.5, **many)
            log.write("interrupt", steps_done=STEPS)
    return found


def start_mirrors(runs: list[Path], **variables: str) -> "list[subprocess.Popen[str]]":
    argv = [sys.executable, "-c", MIRROR]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "", **variables}
    return [
        subprocess.Popen([*argv, str(run), str(STEPS)], stdout=subprocess.PIPE, text=True, env=environment)
        for run in runs
    ]


def ask(server: str, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server}/api/2.0/mlflow/{path}", timeout=60) as answer:
        return dict(json.load(answer))


def check_points(server: str, runs: list[Path]) -> None:
    """Through the REST API: as many runs as folders, and every point once."""
    ids = [read_cursor(run)["run_id"] for run in runs]
    experiment = ask(server, f"runs/get?run_id={ids[0]}")["run"]["info"]["experiment_id"]
    body = json.dumps({"experiment_ids": [experiment]}).encode()
    request = urllib.request.Request(f"{server}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert sorted(run["info"]["run_id"] for run in json.load(answer)["runs"]) == sorted(ids)
    for run_id in ids:
        for metric in ("train/loss", "train/metric39"):
            points = ask(server, f"metrics/get-history?run_id={run_id}&metric_key={metric}")["metrics"]
            assert [point["step"] for point in points] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_on_sqlite_no_run_meets_a_lock_and_the_dashboard_serves_them_all(runs: list[Path]) -> None:
    mirrors = start_mirrors(runs)
    assert [mirror.communicate(timeout=600)[0] for mirror in mirrors] == [""] * RUNS, "a failure was announced"
    folder = runs[0].parent
    argv = [sys.executable, "-m", "dnachunker", "dashboard", str(folder), "--port", "0"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # of children too, where a shell has tests ignore Ctrl-C
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        found = re.fullmatch(
            r"dnachunker: (http://127.0.0.1:\d+)/#/experiments/(\d+)/runs"
            r"\?workflowType=machine_learning&viewStateShareKey=dnachunker\n",
            line,
        )
        assert found, line
        check_points(found[1], runs)
        experiment = ask(found[1], f"experiments/get?experiment_id={found[2]}")["experiment"]
        assert {"key": "mlflow.experimentKind", "value": "custom_model_development"} in experiment["tags"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        with pytest.raises(OSError, match="refused"):
            ask(found[1], "experiments/get?experiment_id=0")
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """URI of an empty database of a PostgreSQL server of our own."""
    pytest.importorskip("psycopg")
    places = sorted(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))
    initdb = shutil.which("initdb", path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
    if initdb is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # PostgreSQL refuses to run as root
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    folder = tempfile.mkdtemp(prefix="pg-")
    shutil.chown(folder, **user) if user else None
    options = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    port = free_port()
    subprocess.run([initdb, "-D", f"{folder}/data", "-A", "trust", "-U", "dna", "-N"], check=True, **options)  # type: ignore[call-overload]
    argv = [str(Path(initdb).with_name("postgres")), "-D", f"{folder}/data", "-k", folder, "-p", str(port)]
    server = subprocess.Popen([*argv, "-h", "127.0.0.1", "-F"], **options)  # type: ignore[call-overload]
    try:
        until_listening(port, server)
        yield f"postgresql://dna@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_on_postgresql_a_restart_of_the_server_loses_and_doubles_nothing(
    runs: list[Path], postgresql: str, tmp_path: Path
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", postgresql, "--artifacts-destination", str(tmp_path / "artifacts")]

    def start() -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = subprocess.Popen(argv, stdout=quiet, stderr=quiet, start_new_session=True, env=environment)
        until_listening(port, server)
        return server

    server = start()
    mirrors: list[subprocess.Popen[str]] = []
    try:
        mirrors = start_mirrors(runs, MLFLOW_TRACKING_URI=address)
        while not any(read_cursor(run).get("run_id") for run in runs):
            assert any(mirror.poll() is None for mirror in mirrors)
            time.sleep(0.02)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server = start()
        for mirror in mirrors:
            mirror.communicate(timeout=600)
        assert [mirror.returncode for mirror in mirrors] == [0] * RUNS
        check_points(address, runs)
    finally:
        for mirror in mirrors:
            mirror.kill()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_listening(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        assert server.poll() is None, "the server does not start"
        assert time.monotonic() < deadline, "the server never answered"
        time.sleep(0.1)

"""`dnachunker dashboard`: MLflow's page on a store of runs, opened where the runs can be compared."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.mlflow_client import VIEW, connect
from dnachunker.foundations.mlflow_store import STORE, redacted, sqlite_file, sqlite_uri, tracking_uri
from dnachunker.pretrain.run_folder import CONFIG, read_config

_HOST = "127.0.0.1"  # MLflow's server asks for no password, so only this machine may reach it
_PORT = 5000
_START_SECONDS = 180.0


def run_dashboard(place: str | None, *, port: int | None = None, show: bool = False) -> int:
    """Serve the store of `place` until Ctrl-C, after printing the address of its runs table; returns the exit code.

    A server that runs already (an http address) is not started: its runs table is printed, and that is all.

    Args:
        place: a run folder, a folder of runs, or a tracking URI; None: MLFLOW_TRACKING_URI, else `runs`.
        port: None for 5000, or any free one where 5000 is taken.
        show: open the address in a browser.

    Raises:
        BadInput: no store is there, MLflow cannot read it, or the port is taken.
        Failure: the server does not start.
    """
    uri = store_of(place)
    client = connect(uri)
    if uri.startswith("http"):
        _tell(client, uri.rstrip("/"), show)
        return 0
    with _server(uri, _free_port(port)) as address:
        _tell(client, address, show)
        print("Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    return 0


def store_of(place: str | None) -> str:
    """The tracking URI that `place` means; see `run_dashboard`.

    Raises:
        BadInput: no such folder, or no store in it.
    """
    place = place or os.environ.get("MLFLOW_TRACKING_URI") or "runs"
    if "://" in place:
        uri, folder = place, None
    else:
        folder = Path(place)
        if not folder.is_dir():
            raise BadInput(f"{place}: no such folder; name a run folder, a folder of runs, or a tracking URI")
        if (folder / STORE).is_file():
            return sqlite_uri(folder / STORE)
        if (folder / CONFIG).is_file():
            uri = tracking_uri(read_config(folder).tracking.uri, folder)
        else:
            uri = tracking_uri(None, folder) if any(folder.glob("mlflow.json")) else sqlite_uri(folder / STORE)
    store = sqlite_file(uri)
    if store and not store.is_file():
        below = sorted(str(found.parent) for found in folder.glob(f"*/{STORE}")) if folder else []
        remedy = f"there is one in {', '.join(below)}" if below else "`dnachunker pretrain` makes one beside its run"
        raise BadInput(f"{place}: no MLflow store ({store.name}) is there; {remedy}")
    return uri


def addresses(client: Any, server: str) -> dict[str, str]:
    """By experiment with runs, the address of its runs table, latest run first; as training shows it, not as GenAI."""
    latest = {}
    for experiment in client.search_experiments():
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)
        if runs:
            latest[experiment.name] = (runs[0].info.start_time, experiment)
    found = {}
    for name, (_, experiment) in sorted(latest.items(), key=lambda item: -item[1][0]):
        view = f"&viewStateShareKey={VIEW}" if f"mlflow.sharedViewState.{VIEW}" in experiment.tags else ""
        query = f"workflowType=machine_learning{view}"
        found[name] = f"{server}/#/experiments/{experiment.experiment_id}/runs?{query}"
    return found


def _tell(client: Any, server: str, show: bool) -> None:
    found = addresses(client, server)
    for name, address in found.items():
        print(f"{name}: {address}", flush=True)
    if not found:
        print(f"no runs yet: {server}", flush=True)
    if show:
        webbrowser.open(next(iter(found.values()), server))


def _free_port(wanted: int | None) -> int:
    for port in (wanted,) if wanted is not None else (_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
                return int(probe.getsockname()[1])
            except (OSError, OverflowError):
                continue
    raise BadInput(f"--port {wanted}: cannot be used; choose another one, or leave --port out")


@contextlib.contextmanager
def _server(uri: str, port: int) -> Iterator[str]:
    """An MLflow server on the store, which answers on entering and has ended on leaving; gives its address."""
    argv = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"]
    variables = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not an argument: `ps` shows arguments to everybody
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # of GenAI
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and the server with it
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            argv, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(server, port, log, uri)
            yield f"http://{_HOST}:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def _wait(server: "subprocess.Popen[bytes]", port: int, log: IO[bytes], uri: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=5):
            return
        time.sleep(0.2)
    log.seek(0)
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    raise Failure(
        f"{redacted(uri)}: MLflow's server does not start: {redacted((lines or ['it says nothing'])[-1])[:300]}"
    )

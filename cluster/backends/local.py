"""Ranks on this machine, started by DeepSpeed's launcher and supervised by the command that asked for them."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

from dnachunker.cluster.argv import launcher_command, worker_environment
from dnachunker.cluster.request import Request, say, worker_of
from dnachunker.cluster.restart import Attempt, supervise
from dnachunker.cluster.stop_requests import ONE_REQUEST_SECONDS, StopRequests, heeded
from dnachunker.cluster.topology import Placement
from dnachunker.foundations.failures import BadInput

# Tells each rank where to leave the exit code it means: DeepSpeed's launcher returns the code of whichever rank it
# happens to notice first.
EXIT_FOLDER_VARIABLE = "DNACHUNKER_EXIT_FOLDER"
# Tells each rank whom to outlive only for as long as saving takes.
SUPERVISOR_VARIABLE = "DNACHUNKER_SUPERVISOR"

# After one rank has ended, the others have this long: they end by themselves, or hang in a collective with it.
_GRACE_SECONDS = 8.0
# The launcher starts all ranks within this long of the first.
_START_SECONDS = 2.0


def run_local(
    worker: Sequence[str],
    processes: int,
    environment: Mapping[str, str] = os.environ,
    *,
    on_signal: Callable[[], None] | None = None,
) -> int:
    """Run `processes` ranks of `worker`, which are the whole job, to their end; see `run_node`."""
    return run_node(worker, Placement(1, 0, processes), environment, on_signal=on_signal)


def run_node(
    worker: Sequence[str],
    placement: Placement,
    environment: Mapping[str, str] = os.environ,
    *,
    on_signal: Callable[[], None] | None = None,
) -> int:
    """Run this machine's ranks of `worker` to their end.

    A first SIGTERM, SIGINT, SIGUSR1 or SIGHUP is passed on to the ranks, which save and stop; a second one ends them.

    Args:
        worker: module name and arguments, as after `python -m`.
        on_signal: also called when such a signal comes.

    Returns:
        0 when all of them succeeded, else the most telling exit code: 2 and 4 (do not restart) before 3 (restart).
    """
    with tempfile.TemporaryDirectory(prefix="dnachunker-") as folder:
        processes = placement.ranks_per_node
        gpus = visible_gpus(environment)
        devices = gpus[:processes] if gpus else [str(rank) for rank in range(processes)]
        command = launcher_command(worker, devices, placement)
        variables = worker_environment(environment, processes, cores=available_cores(), gpus=len(gpus))
        launcher = subprocess.Popen(
            [sys.executable, *command],
            env={**variables, EXIT_FOLDER_VARIABLE: folder, SUPERVISOR_VARIABLE: str(os.getpid())},
            # its own session: Ctrl-C must reach the ranks as a request to save, not the launcher as a kill
            start_new_session=True,
        )
        with _Forwarding(launcher, on_signal):
            returned = _wait(launcher, processes)
        return _exit_code(Path(folder), returned)


def _wait(launcher: "subprocess.Popen[bytes]", processes: int) -> int:
    """The launcher's exit code, once it and every rank it started are gone."""
    ranks: set[psutil.Process] = set()
    all_started = deadline = float("inf")
    while launcher.poll() is None or any(_runs(process) for process in ranks):
        now = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended; ranks that are left save and follow
            ranks |= set(filter(_is_rank, psutil.Process(launcher.pid).children()))
        if ranks:
            all_started = min(all_started, now + _START_SECONDS)
        # counted, not compared with those seen: a rank may fail before it is seen
        if now > all_started and launcher.poll() is None and sum(map(_runs, ranks)) < processes:
            deadline = min(deadline, now + _GRACE_SECONDS)
        if now > deadline:
            for process in filter(_runs, ranks):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()  # also ends one that is stopped, or stuck in a driver
        time.sleep(0.1)
    return launcher.wait()


def _is_rank(process: psutil.Process) -> bool:
    """Whether a child of the launcher is a rank rather than one of the tools it asks about the machine."""
    try:
        return "RANK" in process.environ()
    except psutil.Error:
        return False


def _was_rank(process: psutil.Process) -> bool:
    """As `_is_rank`, and true of one that has ended and that the launcher has yet to notice."""
    try:
        return _is_rank(process) or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """NVIDIA GPUs this process may use, as CUDA_VISIBLE_DEVICES names them, found without importing torch."""
    if environment.get("DS_ACCELERATOR", "cuda") != "cuda":
        return []
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if device.strip() not in ("", "-1")]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def available_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Forwarding:
    """While entered, passes signals on to the ranks, which are the launcher's children."""

    def __init__(self, launcher: "subprocess.Popen[bytes]", on_signal: Callable[[], None] | None) -> None:
        self._launcher, self._on_signal = launcher, on_signal
        self._first: float | None = None  # when the first signal came
        self._previous: dict[int, object] = {}

    def __enter__(self) -> None:
        for number in heeded():
            self._previous[number] = signal.signal(number, self._forward)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is not None and now - self._first < ONE_REQUEST_SECONDS:
            return
        again, self._first = self._first is not None, now
        if self._on_signal:
            self._on_signal()
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended on its own meanwhile
            launcher = psutil.Process(self._launcher.pid)
            ranks = list(filter(_was_rank, launcher.children()))
            for process in [*ranks, launcher] if again else ranks or [launcher]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if again:
                        process.kill()
                    else:
                        asked = signal.SIGTERM if number == signal.SIGHUP or process == launcher else number
                        process.send_signal(asked)


def _exit_code(folder: Path, returned: int) -> int:
    meant = {int(path.read_text()) for path in folder.glob("rank-*")}
    for code in (2, 4, 1, 3):
        if code in meant:
            return code
    # no rank told: it was killed, and the launcher passes the negative number on as an exit code
    return 128 - returned if returned < 0 else 128 + 256 - returned if returned > 192 else returned


def launch(request: Request) -> int:
    """Train here, and start again after a crash; returns the exit code.

    Raises:
        BadInput: more machines than one, more ranks than GPUs, or a number of ranks that does not divide the run.
    """
    cluster, gpus = request.cluster, len(visible_gpus())
    ranks = cluster.gpus or gpus or 2
    if (cluster.nodes or 1) > 1:
        raise BadInput("kind local is this machine alone; for more, use --on hosts, slurm, kubernetes or ray")
    if gpus and ranks > gpus:
        raise BadInput(f"{ranks} ranks need {ranks} GPUs and {gpus} are visible; lower --gpus")
    request.require_divisible(ranks)
    if request.dry_run:
        print(shlex.join([sys.executable, "-m", *worker_of(request.stored_config)]), f"# {ranks} ranks here")
        return 0
    worker = worker_of(request.prepare(request.run, ranks))
    environment = {**os.environ, **cluster.environment}
    with StopRequests() as stop:

        def attempt() -> Attempt:
            return Attempt(run_local(worker, ranks, environment, on_signal=stop.note), asked=stop.count > 0)

        return supervise(attempt, cluster.restart, say=say, wait=stop.wait)

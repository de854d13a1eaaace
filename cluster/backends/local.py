"""Kind local: ranks on this machine, started by DeepSpeed's launcher and supervised by this process."""

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

from dnachunker.cluster.argv import launcher_argv, worker_environment
from dnachunker.cluster.request import Request, say, worker_of
from dnachunker.cluster.restart import Attempt, supervise
from dnachunker.cluster.stop_requests import ONE_REQUEST_SECONDS, StopRequests, heeded
from dnachunker.cluster.topology import Placement
from dnachunker.foundations.failures import BadInput

# Names the folder into which each rank writes its exit code. DeepSpeed's launcher returns only the code of the rank
# whose end it notices first.
EXIT_FOLDER_VARIABLE = "DNACHUNKER_EXIT_FOLDER"
# Names the process id of the supervisor; when that process is gone, each rank saves and ends.
SUPERVISOR_VARIABLE = "DNACHUNKER_SUPERVISOR"

# After one rank has ended, the others end by themselves or hang in a collective; after this time they are killed.
_GRACE_SECONDS = 8.0
# All ranks are started within this time of the first one.
_START_SECONDS = 2.0


def run_local(
    worker: Sequence[str],
    processes: int,
    environment: Mapping[str, str] = os.environ,
    *,
    on_signal: Callable[[], None] | None = None,
) -> int:
    """Run a job of `processes` ranks on this machine alone and wait for its end; see `run_node`."""
    return run_node(worker, Placement(1, 0, processes), environment, on_signal=on_signal)


def run_node(
    worker: Sequence[str],
    placement: Placement,
    environment: Mapping[str, str] = os.environ,
    *,
    on_signal: Callable[[], None] | None = None,
) -> int:
    """Run this machine's ranks and wait for their end.

    The first SIGTERM, SIGINT, SIGUSR1 or SIGHUP is passed on to the ranks, which save and stop. A second kills them.

    Args:
        worker: module name and arguments, as after `python -m`.
        placement: this machine's place in the job.
        on_signal: called for each such signal.

    Returns:
        0 when all ranks succeeded, otherwise the code of the rank that matters most: 2, then 4, then 1, then 3.
    """
    with tempfile.TemporaryDirectory(prefix="dnachunker-") as folder:
        processes = placement.ranks_per_node
        gpus = visible_gpus(environment)
        devices = gpus[:processes] if gpus else [str(rank) for rank in range(processes)]
        argv = launcher_argv(worker, devices, placement)
        variables = worker_environment(environment, processes, cores=available_cores(), gpus=len(gpus))
        launcher = subprocess.Popen(
            [sys.executable, *argv],
            env={**variables, EXIT_FOLDER_VARIABLE: folder, SUPERVISOR_VARIABLE: str(os.getpid())},
            # its own session, so that Ctrl-C does not kill the launcher: `_Forwarding` asks the ranks to save instead
            start_new_session=True,
        )
        with _Forwarding(launcher, on_signal):
            returned = _wait(launcher, processes)
        return _exit_code(Path(folder), returned)


def _wait(launcher: "subprocess.Popen[bytes]", processes: int) -> int:
    """Wait until the launcher and all its ranks have ended; returns the launcher's exit code."""
    ranks: set[psutil.Process] = set()
    all_started = deadline = float("inf")
    while launcher.poll() is None or any(_runs(process) for process in ranks):
        now = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):  # the launcher has just ended; its ranks save and end, too
            ranks |= set(filter(_is_rank, psutil.Process(launcher.pid).children()))
        if ranks:
            all_started = min(all_started, now + _START_SECONDS)
        # compared with the number of ranks to start, because a rank may fail before this loop sees it
        if now > all_started and launcher.poll() is None and sum(map(_runs, ranks)) < processes:
            deadline = min(deadline, now + _GRACE_SECONDS)
        if now > deadline:
            for process in filter(_runs, ranks):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()  # ends even a rank that is stopped or hangs in a driver
        time.sleep(0.1)
    return launcher.wait()


def _is_rank(process: psutil.Process) -> bool:
    """Whether a child of the launcher is a rank. (The launcher also runs short tools that examine the machine.)"""
    try:
        return "RANK" in process.environ()
    except psutil.Error:
        return False


def _was_rank(process: psutil.Process) -> bool:
    """Like `_is_rank`, but also true for a rank that has ended while the launcher has not noticed yet."""
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
    """The NVIDIA GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES; found without importing torch."""
    if environment.get("DS_ACCELERATOR", "cuda") != "cuda":
        return []
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if device.strip() not in ("", "-1")]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def available_cores() -> int:
    """Number of CPU cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Forwarding:
    """A context manager that passes signals on to the ranks, which are children of the launcher."""

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
        with contextlib.suppress(psutil.NoSuchProcess):  # the launcher has ended by itself
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
    """The exit code of the job, from the codes that the ranks wrote into `folder` and the launcher's own code."""
    meant = {int(path.read_text()) for path in folder.glob("rank-*")}
    for code in (2, 4, 1, 3):
        if code in meant:
            return code
    # no rank wrote a code, so one was killed; the launcher then exits with the negative signal number
    return 128 - returned if returned < 0 else 128 + 256 - returned if returned > 192 else returned


def launch(request: Request) -> int:
    """Train on this machine, and start again after a crash; returns the exit code.

    Raises:
        BadInput: more than one machine, more ranks than GPUs, or a number of ranks that does not divide the run's
            batches.
    """
    cluster, gpus = request.cluster, len(visible_gpus())
    ranks = cluster.gpus or gpus or 2
    if (cluster.nodes or 1) > 1:
        raise BadInput(
            "kind local trains on this machine alone; for more machines, use --on hosts, slurm, kubernetes or ray"
        )
    if gpus and ranks > gpus:
        raise BadInput(f"{ranks} ranks need {ranks} GPUs, but {gpus} are visible; lower --gpus")
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

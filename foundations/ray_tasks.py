"""Runs jobs as Ray tasks, on a private Ray or on a cluster. The tasks write files and return small values."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

import dnachunker

from .failures import BadInput, Failure, one_line

LOCAL_RAY = "local"
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's minimum is 75 MiB; without a limit Ray reserves a third of the memory
_STARTS = 3
_ANSWER_SECONDS = 10.0
_LATE = "timed out during startup"  # part of Ray's message about a node that started too slowly
T = TypeVar("T")


@contextlib.contextmanager
def ray_session(address: str, workers: int, *, asked_by: str) -> Iterator[None]:
    """A context manager inside which Ray can be used.

    Args:
        address: `local` for a private Ray, which is shut down at the end; otherwise the address of a cluster.
        workers: cores of a private Ray.
        asked_by: the option of the user that asked for Ray, such as `--ray local`; error messages begin with it.

    Raises:
        BadInput: no Ray cluster answers at `address`, or the temporary folder does not suit Ray.
        Failure: a private Ray does not start.
    """
    import ray  # the import takes half a second, and most commands do not need Ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # avoids a warning in tasks without a GPU
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL_RAY:
        options |= {"num_cpus": workers, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
        # Ray's workers search the current folder for modules before an editable install. So a folder named dnachunker
        # in the current folder, such as a clone of this project, would be imported in place of the package.
        home = str(Path(dnachunker.__file__).parents[1])
        if home not in sys.path:
            path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
            options["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
    else:
        _require_answer(address, asked_by)
    try:
        # address `local` starts a private Ray even if RAY_ADDRESS names a cluster
        start_in_time(lambda: ray.init(address=address, **options), asked_by=asked_by)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{asked_by}: no Ray cluster answers there ({reason})") from error
    except OSError as error:  # such as a path of a socket that is too long
        raise BadInput(
            f"{asked_by}: Ray cannot start ({one_line(error)}); let TMPDIR name a folder with a short path, or go "
            "without Ray"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str, asked_by: str) -> None:
    """Refuse HOST:PORT, or ray://HOST:PORT, where nothing listens. Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return  # such as `auto`: Ray looks for a cluster on this machine, and answers at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:
        raise BadInput(
            f"{asked_by}: no Ray cluster answers there ({error}); `ray start --head` prints the address of a new one"
        ) from error


def start_in_time(start: Callable[[], T], *, asked_by: str) -> T:
    """Call `start`, which starts Ray's nodes on this machine, and return its result.

    Ray gives a node half a minute to start, which can be too short on a busy machine. So `start` is tried up to three
    times; the processes of a failed start are killed before the next one.

    Raises:
        Failure: every start took too long. Other exceptions of `start` are passed on.
    """
    for _ in range(_STARTS):
        others = set(psutil.Process().children(recursive=True))
        try:
            return start()
        except Exception as error:  # Ray raises a plain Exception here
            if _LATE not in str(error):
                raise
        for process in set(psutil.Process().children(recursive=True)) - others:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    raise Failure(f"{asked_by}: Ray did not start in {_STARTS} attempts of half a minute; is this machine overloaded?")


def threads_of_a_task(address: str, workers: int) -> int:
    """Threads that each task may use: an equal share of this machine's cores on `local`; one on a cluster."""
    return max(1, len(os.sched_getaffinity(0)) // workers) if address == LOCAL_RAY else 1


def map_on_ray(
    task: Callable[..., T], jobs: Sequence[tuple[Any, ...]], *, stop: Callable[[], Collection[int]] | None = None
) -> Iterator[T]:
    """Call `task(*job)` for every job as a Ray task with one core, and with one GPU if the cluster has any.

    Args:
        stop: asks the running tasks to end early and returns the numbers of the jobs that have begun. It is called when
            an exception is raised here, which may be the failure of a task. Jobs that have begun are then waited for,
            and the others are cancelled. Without `stop`, all jobs are killed.

    Yields:
        The results of the tasks, in the order in which the tasks end.

    Raises:
        Failure: the one that a task raised, or a task's process died too often.
    """
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    # tasks may be repeated: when a worker dies, Ray runs its task again in another worker
    remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_attempt)
    numbers = {remote.remote(task, job): number for number, job in enumerate(jobs)}
    waiting = list(numbers)
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                result, failure = ray.get(done[0])
            except ray.exceptions.RayError as error:
                raise Failure(
                    f"a task died: {one_line(error)[:300]}; run the same command again to continue"
                ) from error
            if failure is not None:
                raise failure
            yield result
    except BaseException:
        if stop is not None and ray.is_initialized():
            begun = stop()
            for reference in waiting:
                if numbers[reference] not in begun:
                    ray.cancel(reference)
            if saving := [reference for reference in waiting if numbers[reference] in begun]:
                ray.wait(saving, num_returns=len(saving))
        raise


def _attempt(task: Callable[..., T], job: tuple[Any, ...]) -> tuple[T | None, Failure | None]:
    try:
        return task(*job), None
    except Failure as failure:  # returned, because Ray would wrap a raised exception in a traceback
        return None, failure

"""Ray, private to this process or somebody's cluster, and jobs as its tasks. Tasks write files and return little."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

import dnachunker

from .failures import BadInput, Failure

LOCAL_RAY = "local"
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's minimum is 75 MiB; without a cap it would take a third of the memory
_STARTS = 3
_LATE = "timed out during startup"
T = TypeVar("T")


@contextlib.contextmanager
def ray_session(address: str, workers: int, *, asked_by: str) -> Iterator[None]:
    """Ray while entered.

    Args:
        address: `local` for a private Ray of `workers` cores, gone at the end; else that of a cluster.
        asked_by: the option that a message about an unreachable Ray begins with.

    Raises:
        BadInput: Ray cannot be reached.
        Failure: a private Ray does not get started.
    """
    import ray  # half a second, and only those who ask for Ray need it

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about GPUs we may not use
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL_RAY:
        options |= {"num_cpus": workers, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    # Ray's workers look for modules in the folder where the user stands before they ask an editable install: a clone
    # of this project there, named dnachunker, would be found in place of the package
    home = str(Path(dnachunker.__file__).parents[1])
    if home not in sys.path:
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": os.pathsep.join([home, *_python_path()])}}
    try:
        # `local` is never somebody else's cluster, whatever RAY_ADDRESS says
        start_in_time(lambda: ray.init(address=address, **options), asked_by=asked_by)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{asked_by}: no Ray cluster answers there ({reason})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _python_path() -> list[str]:
    return [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]


def start_in_time(start: Callable[[], T], *, asked_by: str) -> T:
    """What `start` returns, which brings up Ray's nodes here.

    Ray gives a node half a minute, whatever else the machine has to do: so, three times. What a late node has started
    is ended before the next.

    Raises:
        Failure: it was late each time. Other exceptions are those of `start`.
    """
    for _ in range(_STARTS):
        others = set(psutil.Process().children(recursive=True))
        try:
            return start()
        except Exception as error:  # Ray raises nothing narrower
            if _LATE not in str(error):
                raise
        for process in set(psutil.Process().children(recursive=True)) - others:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    raise Failure(
        f"{asked_by}: Ray did not come up in {_STARTS} attempts of half a minute; is this machine overloaded?"
    )


def threads_of_a_task(address: str, workers: int) -> int:
    """An equal share of this machine's cores on `local`; on a cluster, one."""
    return max(1, len(os.sched_getaffinity(0)) // workers) if address == LOCAL_RAY else 1


def map_on_ray(
    task: Callable[..., T], jobs: Sequence[tuple[Any, ...]], *, stop: Callable[[], Collection[int]] | None = None
) -> Iterator[T]:
    """Call `task(*job)` for every job, each with a core, and a GPU where there are any.

    Args:
        stop: asks the tasks to end early and returns the numbers of the jobs that have begun. Called when something
            is raised here, a task's failure too: jobs that have begun are then waited for, the others cancelled.
            Without it all are killed.

    Yields:
        What the tasks return, in the order in which they end.

    Raises:
        Failure: as the task raised it.
    """
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    # a worker that dies takes nothing along: its job is done again elsewhere
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
                    f"a task died: {' '.join(str(error).split())[:300]}; run this again to continue"
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
    except Failure as failure:  # a Ray error would wrap it in a traceback
        return None, failure

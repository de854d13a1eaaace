"""Cells as Ray tasks, on this machine or a cluster. Cells write files, so all machines must see the output folder."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from failures import BadInput, Failure

from .protocol import Cell

LOCAL_RAY = "local"
_OBJECT_STORE_BYTES = 80 * 2**20  # nearly Ray's minimum: tasks pass paths, not data
_ROOT = str(Path(__file__).resolve().parents[1])
T = TypeVar("T")


def run_on_ray(cells: Sequence[Cell], address: str, workers: int) -> Iterator[Path]:
    """Results in the order in which they are finished.

    Args:
        address: `local` for a private Ray, else that of a cluster.
        workers: cells at a time on `local`; each gets an equal share of the cores, and a GPU where there are any.

    Raises:
        Failure: as the cell raised it; or Ray cannot be reached.
    """
    threads = threads_of_a_task(address, workers)
    jobs = [(replace(cell, threads=threads),) for cell in cells]
    with ray_session(address, workers, asked_by=f"--ray {address}"):
        yield from map_on_ray(_run, jobs)


def threads_of_a_task(address: str, workers: int) -> int:
    """An equal share of this machine's cores on `local`; on a cluster, one."""
    return max(1, len(os.sched_getaffinity(0)) // workers) if address == LOCAL_RAY else 1


@contextlib.contextmanager
def ray_session(address: str, workers: int, *, asked_by: str) -> Iterator[None]:
    """Ray, for `map_on_ray`, while entered.

    Args:
        address, workers: as in `run_on_ray`.
        asked_by: the option that a message about an unreachable Ray begins with.

    Raises:
        BadInput: Ray cannot be reached.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about GPUs we may not use
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL_RAY:
        options |= {"num_cpus": workers, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        # `local` is never somebody else's cluster, whatever RAY_ADDRESS says
        ray.init(address=address, runtime_env={"env_vars": {"PYTHONPATH": _ROOT}}, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"{asked_by}: {' '.join(str(error).split())[:200]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def map_on_ray(
    task: Callable[..., T], jobs: Sequence[tuple[Any, ...]], *, stop: Callable[[], object] | None = None
) -> Iterator[T]:
    """Call `task(*job)` for every job as Ray tasks; results in the order in which they are finished.

    Args:
        stop: asks the tasks to end early; called when one fails, and then they are waited for. Without it they are
            killed.

    Raises:
        Failure: as the task raised it.
    """
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    # a worker that dies takes nothing along: its job is done again elsewhere
    remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_attempt)
    waiting = [remote.remote(task, job) for job in jobs]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                result, failure = ray.get(done[0])
            except ray.exceptions.RayError as error:
                raise Failure(
                    f"a cell died: {' '.join(str(error).split())[:300]}; run this again to continue"
                ) from error
            if failure is not None:
                raise failure
            yield result
    except BaseException:
        if stop is not None:
            stop()
            if waiting:
                ray.wait(waiting, num_returns=len(waiting))
        raise


def _attempt(task: Callable[..., T], job: tuple[Any, ...]) -> tuple[T | None, Failure | None]:
    try:
        return task(*job), None
    except Failure as failure:  # a Ray error would wrap it in a traceback
        return None, failure


def _run(cell: Cell) -> Path:
    from .cells import run_cell

    return run_cell(cell)

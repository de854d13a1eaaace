"""Cells as Ray tasks, here or on a cluster whose machines all see the output folder and the corpus."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from failures import BadInput, Failure

from .cells import Cell
from .config import SweepConfig
from .run_cell import CellRunner, Running

LOCAL_RAY = "local"
_OBJECT_STORE_BYTES = 80 * 2**20  # nearly Ray's minimum: tasks pass paths, not data
_ROOT = str(Path(__file__).resolve().parents[1])


def run_on_ray(
    sweep: SweepConfig, cells: Sequence[Cell], output: Path, *, workdir: Path, address: str, jobs: int
) -> Iterator[bool]:
    """Whether each cell has a result, in the order in which they end.

    Args:
        address: `local` for a private Ray of `jobs` workers, else that of a cluster, which decides how many run.

    Raises:
        Failure: Ray cannot be reached, or a cell's folder was made with other options.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about GPUs we may not use
    local = address == LOCAL_RAY
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        options |= {"num_cpus": jobs, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        # `local` is never somebody else's cluster, whatever RAY_ADDRESS says
        ray.init(address=address, runtime_env={"env_vars": {"PYTHONPATH": _ROOT}}, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"--on ray:{address}: {' '.join(str(error).split())[:200]}") from error
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # a worker that dies takes nothing along: its cell continues elsewhere
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_run)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment = {"OMP_NUM_THREADS": str(max(1, cores // jobs))} if local else {}
        waiting = [task.remote(sweep, cell, output, workdir, environment) for cell in cells]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                finished, failure = ray.get(done[0])
            except ray.exceptions.RayError as error:
                raise Failure(
                    f"a cell died: {' '.join(str(error).split())[:300]}; run this again to continue"
                ) from error
            if failure is not None:
                raise failure
            yield finished
    finally:
        ray.shutdown()


def _run(
    sweep: SweepConfig, cell: Cell, output: Path, workdir: Path, environment: dict[str, str]
) -> tuple[bool, Failure | None]:
    try:
        return CellRunner(sweep, output, workdir, Running(), shared=environment).run(cell), None
    except Failure as failure:  # a Ray error would wrap it in a traceback
        return False, failure

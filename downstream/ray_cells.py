"""Cells as Ray tasks, on this machine or a cluster. Cells write files, so all machines must see the output folder."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from failures import BadInput, Failure

from .protocol import Cell

LOCAL_RAY = "local"
_OBJECT_STORE_BYTES = 80 * 2**20  # nearly Ray's minimum: tasks pass paths, not data
_ROOT = str(Path(__file__).resolve().parents[1])


def run_on_ray(cells: Sequence[Cell], address: str, workers: int) -> Iterator[Path]:
    """Results in the order in which they are finished.

    Args:
        address: `local` for a private Ray, else that of a cluster.
        workers: cells at a time on `local`; each gets an equal share of the cores, and a GPU where there are any.

    Raises:
        Failure: as the cell raised it; or Ray cannot be reached.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about GPUs we may not use
    local = address == LOCAL_RAY
    cores = len(os.sched_getaffinity(0))
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        options |= {"num_cpus": workers, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        # `local` is never somebody else's cluster, whatever RAY_ADDRESS says
        ray.init(address=address, runtime_env={"env_vars": {"PYTHONPATH": _ROOT}}, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"--ray {address}: {' '.join(str(error).split())[:200]}") from error
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_run)
        threads = max(1, cores // workers) if local else 1
        waiting = [task.remote(replace(cell, threads=threads)) for cell in cells]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                path, failure = ray.get(done[0])
            except ray.exceptions.RayError as error:
                raise Failure(
                    f"a cell died: {' '.join(str(error).split())[:300]}; run this again to continue"
                ) from error
            if failure is not None:
                raise failure
            yield path
    finally:
        ray.shutdown()


def _run(cell: Cell) -> tuple[Path, Failure | None]:
    from .cells import run_cell

    try:
        return run_cell(cell), None
    except Failure as failure:  # a Ray error would wrap it in a traceback
        return cell.result, failure

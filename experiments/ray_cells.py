"""Cells as Ray tasks, here or on a cluster whose machines all see the output folder and the corpus."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from downstream.ray_cells import LOCAL_RAY, map_on_ray, threads_of_a_task

from .cells import Cell
from .config import SweepConfig
from .run_cell import CellRunner, Running


def run_on_ray(
    sweep: SweepConfig, cells: Sequence[Cell], output: Path, *, workdir: Path, address: str, jobs: int
) -> Iterator[bool]:
    """Whether each cell has a result, in the order in which they end.

    Args:
        address: `local` for a private Ray of `jobs` workers, else that of a cluster, which decides how many run.

    Raises:
        Failure: Ray cannot be reached, or a cell's folder was made with other options.
    """
    shared = {"OMP_NUM_THREADS": str(threads_of_a_task(address, jobs))} if address == LOCAL_RAY else {}
    tasks = [(sweep, cell, output, workdir, shared) for cell in cells]
    yield from map_on_ray(_run, tasks, address, jobs, asked_by=f"--on ray:{address}")


def _run(sweep: SweepConfig, cell: Cell, output: Path, workdir: Path, shared: dict[str, str]) -> bool:
    return CellRunner(sweep, output, workdir, Running(), shared=shared).run(cell)

"""Run cells as Ray tasks, here or on a cluster. Cells write files, so all machines must see the output folder."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dnachunker.foundations.ray_tasks import map_on_ray, ray_session, threads_of_a_task

from .protocol import Cell


def run_on_ray(cells: Sequence[Cell], address: str, workers: int) -> Iterator[Path]:
    """Run cells and yield their result files, in the order in which cells end.

    Args:
        address: `local` for a private Ray on this machine, else the address of a cluster.
        workers: cells at a time on `local`; each gets an equal share of the cores, and a GPU if there is one.

    Raises:
        Failure: a cell failed, or Ray cannot be reached.
    """
    threads = threads_of_a_task(address, workers)
    with ray_session(address, workers, asked_by=f"--ray {address}"):
        yield from map_on_ray(_run, [(replace(cell, threads=threads),) for cell in cells])


def _run(cell: Cell) -> Path:
    from .cells import run_cell

    return run_cell(cell)

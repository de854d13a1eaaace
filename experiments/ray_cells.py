"""Cells as Ray tasks, here or on a cluster whose machines all see the output folder and the corpus."""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from downstream.ray_cells import LOCAL_RAY, map_on_ray, ray_session, threads_of_a_task

from .cells import Cell
from .config import SweepConfig
from .run_cell import CellRunner
from .stopping import Running, on_file, on_signals


def run_on_ray(
    sweep: SweepConfig, cells: Sequence[Cell], output: Path, *, workdir: Path, address: str, jobs: int
) -> Iterator[bool]:
    """Whether each cell has a result, in the order in which they end.

    Args:
        address: `local` for a private Ray of `jobs` workers, else that of a cluster, which decides how many run.

    Raises:
        Failure: Ray cannot be reached, or a cell's folder was made with other options; the others have saved.
        Interrupted: stopped by a signal after the running commands have saved.
    """
    shared = {"OMP_NUM_THREADS": str(threads_of_a_task(address, jobs))} if address == LOCAL_RAY else {}
    asked = output / f".stop-{uuid.uuid4().hex}"  # Ray passes no signal on to what a task has started
    tasks = [(sweep, cell, output, workdir, shared, asked) for cell in cells]
    try:
        # signals second: Ray has handlers of its own
        with ray_session(address, jobs, asked_by=f"--on ray:{address}"), on_signals(asked.touch):
            yield from map_on_ray(_run, tasks, stop=asked.touch)
    finally:
        asked.unlink(missing_ok=True)


def _run(sweep: SweepConfig, cell: Cell, output: Path, workdir: Path, shared: dict[str, str], asked: Path) -> bool:
    running = Running(stopped=asked.exists())
    with on_file(asked, running):
        return CellRunner(sweep, output, workdir, running, shared=shared).run(cell)

"""Run cells as Ray tasks, here or on a cluster whose machines all see the output folder and the corpus."""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from dnachunker.experiments.cells import Cell
from dnachunker.experiments.config import SweepConfig
from dnachunker.foundations.failures import Interrupted
from dnachunker.foundations.ray_tasks import LOCAL_RAY, map_on_ray, ray_session, threads_of_a_task

from .run_cell import CellRunner
from .stopping import STOPPED, Running, interrupted_by_signals, on_file

_STOP = "stop"


def run_on_ray(
    sweep: SweepConfig, cells: Sequence[Cell], output: Path, *, workdir: Path, address: str, jobs: int
) -> Iterator[bool]:
    """Run cells and yield whether each has a result, in the order in which they end.

    Args:
        address: `local` for a private Ray of `jobs` workers; else the address of a cluster, which decides how many run.

    Raises:
        Failure: Ray cannot be reached, or a cell's folder was made with other options; the other cells have saved.
        KeyboardInterrupt: stopped by a signal; the running steps have saved, unless a second signal came.
    """
    shared = {"OMP_NUM_THREADS": str(threads_of_a_task(address, jobs))} if address == LOCAL_RAY else {}
    begun = output / f".ray-{uuid.uuid4().hex}"  # files for starts and the stop request: Ray passes no signal on
    begun.mkdir()

    def stop() -> set[int]:
        (begun / _STOP).touch()
        return {int(path.name) for path in begun.glob("[0-9]*")}

    tasks = [(number, begun, sweep, cell, output, workdir, shared) for number, cell in enumerate(cells)]
    try:
        # signals after Ray, which sets handlers of its own
        with (
            ray_session(address, jobs, asked_by=f"--on ray:{address}"),
            interrupted_by_signals(),
        ):
            yield from map_on_ray(_run, tasks, stop=stop)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _run(
    number: int, begun: Path, sweep: SweepConfig, cell: Cell, output: Path, workdir: Path, shared: dict[str, str]
) -> bool:
    running = Running()
    (begun / str(number)).touch()  # before the check of the stop file: `stop` lists these files afterwards
    if (begun / _STOP).exists():
        raise Interrupted(STOPPED)
    with on_file(begun / _STOP, running):
        return CellRunner(sweep, output, workdir, running, shared=shared).run(cell)

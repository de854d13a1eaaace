"""A sweep on this machine: refuse what cannot work, run the cells that are missing, write the tables."""

import contextlib
import os
import queue
import shlex
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from dnachunker.cluster.backends.local import available_cores, visible_gpus
from dnachunker.cluster.config import ClusterConfig
from dnachunker.downstream.output_folder import is_taken, write_text
from dnachunker.experiments.results.mlflow_runs import log_tables, open_parent
from dnachunker.experiments.results.page import write_page
from dnachunker.experiments.results.rows import collect
from dnachunker.experiments.results.tables import write_tables
from dnachunker.experiments.running.on_slurm import submit
from dnachunker.experiments.running.run_cell import CellRunner, check_identity, check_probe_data
from dnachunker.experiments.running.stopping import STOPPED, Running, on_signals
from dnachunker.foundations.failures import BadInput, Interrupted
from dnachunker.foundations.typed_config import to_yaml

from .budget import expected_flops_per_base, network_of
from .cells import Cell, Step, corpus_step, expand, launcher, steps
from .config import SweepConfig

STORED, SUBMISSIONS = "sweep.yaml", "slurm"


def run_sweep(sweep: SweepConfig, output: Path, *, jobs: int, ray: str | None = None) -> int:
    """Run every missing cell, `jobs` at a time, and write the tables; returns the exit code.

    Args:
        ray: None for threads of this process; `local` or a cluster's address for Ray tasks.

    Raises:
        BadInput: a row, path or earlier cell that does not fit; nothing was started.
        Interrupted: stopped by a signal after the running commands have saved.
    """
    cells = prepare(sweep, output)
    missing = [cell for cell in cells if not cell.is_finished()]
    say(f"{sweep.name}: {len(cells)} cells, {len(cells) - len(missing)} of them finished; {output}")
    open_parent(sweep, output)
    if missing:
        ended = _here(sweep, missing, output, jobs) if ray is None else _on_ray(sweep, missing, output, ray, jobs)
        try:
            with contextlib.closing(ended):  # should the tables fail to be written, the commands must not run on
                for _ in ended:
                    write_tables(output, sweep, collect(cells))
        except KeyboardInterrupt:
            raise Interrupted(STOPPED) from None
    return finish(sweep, output, cells)


def _here(sweep: SweepConfig, cells: list[Cell], output: Path, jobs: int) -> Generator[bool, None, None]:
    running, workdir = Running(), Path.cwd()
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)

    def work(cell: Cell) -> bool:
        slot = slots.get()
        try:
            if running.stopped:
                raise Interrupted(STOPPED)
            share = share_of_machine(slot, jobs)
            return CellRunner(sweep, output, workdir, running, say, share).run(cell)
        finally:
            slots.put(slot)

    with on_signals(running.stop), ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(work, cell) for cell in cells]):
                yield future.result()
        except BaseException:
            running.stop()  # the others save; the pool waits for them
            raise


def _on_ray(
    sweep: SweepConfig, cells: list[Cell], output: Path, address: str, jobs: int
) -> Generator[bool, None, None]:
    from dnachunker.experiments.running.on_ray import run_on_ray

    workdir, running = Path.cwd(), Running()
    with on_signals(running.stop):  # here and not in a task: `shard` may want a Ray of its own
        CellRunner(sweep, output, workdir, running, say).build_corpus()
    if running.stopped:
        raise Interrupted(STOPPED)
    yield from run_on_ray(sweep, cells, output, workdir=workdir, address=address, jobs=jobs)


def submit_sweep(sweep: SweepConfig, output: Path, cluster: ClusterConfig, *, jobs: int) -> int:
    """Hand the missing cells to SLURM; returns once it has taken them."""
    cells = prepare(sweep, output)
    missing = [cell for cell in cells if not cell.is_finished()]
    if not missing:
        return finish(sweep, output, cells)
    open_parent(sweep, output)
    submissions = output / SUBMISSIONS
    # of its own: tasks of an earlier submission still read theirs
    config = submissions / f"{len(list(submissions.glob('[0-9]*.yaml')))}.yaml"
    write_text(config, to_yaml(sweep))
    say(submit(missing, output, config, cluster, jobs))
    return 0


def prepare(sweep: SweepConfig, output: Path, *, keep_stored: bool = False) -> list[Cell]:
    """The cells, after everything that can be refused has been.

    Args:
        keep_stored: leave an earlier sweep.yaml as it is.

    Raises:
        BadInput: see `expand`; a corpus or task that is not there; a cell that was begun with other options.
    """
    cells = expand(sweep, output)
    corpus, probe = sweep.chosen.corpus.path, sweep.probe
    if corpus and "://" not in corpus and not Path(corpus, "index.json").is_file():
        raise BadInput(f"scales.{sweep.scale}.corpus.path {corpus}: no corpus of `dnachunker shard` is there")
    for task in probe.tasks if probe.folder else ():
        if not Path(probe.folder or "", task).is_dir():
            raise BadInput(f"probe.tasks: {Path(probe.folder or '', task)}: no such folder")
    if not (output / STORED).is_file() and is_taken(output):
        raise BadInput(f"{output}: already exists and is no sweep; choose another --output")
    _check_cells(sweep, cells)
    if not (keep_stored and (output / STORED).is_file()):
        write_text(output / STORED, to_yaml(sweep))
    return cells


def run_one_cell(sweep: SweepConfig, output: Path, name: str) -> int:
    """Run the cell of that name, as one task of an array; returns the exit code.

    Raises:
        BadInput: there is no such cell.
        Interrupted: stopped by a signal.
    """
    named = {cell.name: cell for cell in prepare(sweep, output, keep_stored=True)}
    if name not in named:
        raise BadInput(f"--cell {name}: no such cell; there are {', '.join(named)}")
    running = Running()
    with on_signals(running.stop):
        return 0 if CellRunner(sweep, output, Path.cwd(), running, say).run(named[name]) else 1


def tables(sweep: SweepConfig, output: Path) -> int:
    """Write the tables of what is there; returns the exit code.

    Raises:
        BadInput: no sweep is there, or cells of other options.
    """
    if not (output / STORED).is_file():
        raise BadInput(f"{output}: no sweep is there; --tables writes those of an earlier sweep into this --output")
    cells = expand(sweep, output)
    _check_cells(sweep, cells)
    return finish(sweep, output, cells)


def _check_cells(sweep: SweepConfig, cells: list[Cell]) -> None:
    for cell in cells:
        check_identity(sweep, cell)
    check_probe_data(sweep, cells)


def finish(sweep: SweepConfig, output: Path, cells: list[Cell]) -> int:
    """Write tables and page, print the table; 1 when a cell failed or is missing."""
    rows = collect(cells)
    written = [*write_tables(output, sweep, rows), write_page(output, sweep, rows)]
    log_tables(sweep, output, rows, written)
    print(written[0].read_text("utf-8"))
    print(f"wrote {', '.join(map(str, written))}")
    failed, missing = sum(len(row.failures) for row in rows), sum(len(row.missing) for row in rows)
    if failed or missing:
        say(f"{failed} cells failed, {missing} were not run; the same command tries them again")
    return 1 if failed or missing else 0


def dry_run(sweep: SweepConfig, output: Path) -> None:
    """Print the commands of every cell with what they are expected to cost."""
    from dnachunker.model.cost import parameters

    start, total = shlex.join(["dnachunker"] if not sweep.command else launcher(sweep)), 0.0
    built = corpus_step(sweep, output)
    if built:
        print(f"# corpus\n{start} {shlex.join(built.arguments)}")
    for cell in expand(sweep, output):
        run = cell.config
        flops = expected_flops_per_base(run)
        bases = run.steps * run.data.global_batch * run.data.seq_len
        total += flops * bases
        print(
            f"\n# {cell.name}: {sum(parameters(network_of(run)).values()) / 1e6:.2f} M parameters, {run.steps:,} steps "
            f"of {run.data.global_batch * run.data.seq_len:,} bases, {bases / 1e6:,.2f} M bases, "
            f"{flops / 1e6:,.1f} MFLOP a base, {flops * bases / 1e15:,.3f} PFLOP"
        )
        parts: list[Step] = list(steps(sweep, cell, ()))
        print("\n".join(f"{start} {shlex.join(step.arguments)}" for step in parts))
    print(f"\n# in all {total / 1e15:,.2f} PFLOP of pretraining, forward and backward, at the target ratios")


def share_of_machine(slot: int, jobs: int) -> dict[str, str]:
    """Variables that keep `jobs` cells at a time out of each other's way, unless the user has set them.

    GPUs are dealt out when there are enough for every cell; else, and without any, cores are shared.
    """
    shared: dict[str, str] = {}
    gpus = visible_gpus()
    if len(gpus) >= jobs > 1:
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::jobs])
    if "OMP_NUM_THREADS" not in os.environ and jobs > 1:
        shared["OMP_NUM_THREADS"] = str(max(1, available_cores() // jobs))
    return shared


_SAYING = threading.Lock()


def say(line: str) -> None:
    """Tell the user; lines of several cells do not mix."""
    with _SAYING:
        print(line, file=sys.stderr, flush=True)

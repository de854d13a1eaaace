"""Run a sweep: check it, run the missing cells, write the tables."""

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
from dnachunker.downstream.output_folder import is_taken
from dnachunker.experiments.results.mlflow_runs import log_tables, open_parent, register_best
from dnachunker.experiments.results.page import write_page
from dnachunker.experiments.results.rows import collect
from dnachunker.experiments.results.tables import write_tables
from dnachunker.experiments.running.on_slurm import submit
from dnachunker.experiments.running.run_cell import CellRunner, check_identity, check_probe_data
from dnachunker.experiments.running.stopping import STOPPED, Running, on_signals
from dnachunker.foundations.atomic_files import write_text
from dnachunker.foundations.failures import BadInput, Interrupted
from dnachunker.foundations.typed_config import to_yaml

from .budget import expected_flops_per_base, network_of
from .cells import Cell, Step, argv_prefix, corpus_step, expand, steps
from .config import SweepConfig

STORED, SUBMISSIONS = "sweep.yaml", "slurm"


def run_sweep(sweep: SweepConfig, output: Path, *, jobs: int, ray: str | None = None) -> int:
    """Run every missing cell, `jobs` at a time, and write the tables; return the exit code.

    Args:
        ray: None for threads of this process; `local` or a cluster's address for Ray tasks.

    Raises:
        BadInput: see `prepare`; nothing was started.
        Interrupted: stopped by a signal; the running steps have saved.
    """
    cells = prepare(sweep, output)
    missing = [cell for cell in cells if not cell.is_finished()]
    say(f"{sweep.name}: {len(cells)} cells, {len(cells) - len(missing)} of them finished; {output}")
    open_parent(sweep, output)
    if missing:
        ended = _here(sweep, missing, output, jobs) if ray is None else _on_ray(sweep, missing, output, ray, jobs)
        try:
            with contextlib.closing(ended):  # stops the steps if the tables cannot be written
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
            running.stop()  # the other cells save; the pool waits for them
            raise


def _on_ray(
    sweep: SweepConfig, cells: list[Cell], output: Path, address: str, jobs: int
) -> Generator[bool, None, None]:
    from dnachunker.experiments.running.on_ray import run_on_ray

    workdir, running = Path.cwd(), Running()
    with on_signals(running.stop):  # not in a Ray task, because `shard` may start its own Ray
        CellRunner(sweep, output, workdir, running, say).build_corpus()
    if running.stopped:
        raise Interrupted(STOPPED)
    yield from run_on_ray(sweep, cells, output, workdir=workdir, address=address, jobs=jobs)


def submit_sweep(sweep: SweepConfig, output: Path, cluster: ClusterConfig, *, jobs: int) -> int:
    """Submit the missing cells to SLURM; return the exit code."""
    cells = prepare(sweep, output)
    missing = [cell for cell in cells if not cell.is_finished()]
    if not missing:
        return finish(sweep, output, cells)
    open_parent(sweep, output)
    submissions = output / SUBMISSIONS
    # a new file, because tasks of an earlier submission still read theirs
    config = submissions / f"{len(list(submissions.glob('[0-9]*.yaml')))}.yaml"
    write_text(config, to_yaml(sweep))
    say(submit(missing, output, config, cluster, jobs))
    return 0


def prepare(sweep: SweepConfig, output: Path, *, keep_stored: bool = False) -> list[Cell]:
    """Check a sweep and return its cells.

    Args:
        keep_stored: leave an earlier sweep.yaml as it is.

    Raises:
        BadInput: see `expand`; a corpus or task does not exist; a cell was begun with other options.
    """
    cells = expand(sweep, output)
    corpus, probe = sweep.chosen.corpus.path, sweep.probe
    if corpus and "://" not in corpus and not Path(corpus, "index.json").is_file():
        raise BadInput(f"scales.{sweep.scale}.corpus.path {corpus}: no corpus of `dnachunker shard` is in this folder")
    for task in probe.tasks if probe.folder else ():
        if not Path(probe.folder or "", task).is_dir():
            raise BadInput(f"probe.tasks: {Path(probe.folder or '', task)}: no such folder")
    if not (output / STORED).is_file() and is_taken(output):
        raise BadInput(f"{output}: already exists and is not a sweep; choose another --output")
    _check_cells(sweep, cells)
    if not (keep_stored and (output / STORED).is_file()):
        write_text(output / STORED, to_yaml(sweep))
    return cells


def run_one_cell(sweep: SweepConfig, output: Path, name: str) -> int:
    """Run the cell of that name, as one task of an array; return the exit code.

    Raises:
        BadInput: there is no such cell.
        Interrupted: stopped by a signal.
    """
    named = {cell.name: cell for cell in prepare(sweep, output, keep_stored=True)}
    if name not in named:
        raise BadInput(f"--cell {name}: no such cell; the cells are {', '.join(named)}")
    running = Running()
    with on_signals(running.stop):
        return 0 if CellRunner(sweep, output, Path.cwd(), running, say).run(named[name]) else 1


def tables(sweep: SweepConfig, output: Path) -> int:
    """Write the tables of the finished cells; return the exit code.

    Raises:
        BadInput: no sweep is in `output`, or its cells have other options.
    """
    if not (output / STORED).is_file():
        raise BadInput(f"{output}: no sweep is there; --tables needs the --output of an earlier sweep")
    cells = expand(sweep, output)
    _check_cells(sweep, cells)
    return finish(sweep, output, cells)


def _check_cells(sweep: SweepConfig, cells: list[Cell]) -> None:
    for cell in cells:
        check_identity(sweep, cell)
    check_probe_data(sweep, cells)


def finish(sweep: SweepConfig, output: Path, cells: list[Cell]) -> int:
    """Write tables and page, and print the table; return 1 if a cell failed or is missing, else 0."""
    rows = collect(cells)
    written = [*write_tables(output, sweep, rows), write_page(output, sweep, rows)]
    log_tables(sweep, output, rows, written)
    register_best(sweep, output, cells)
    print(written[0].read_text("utf-8"))
    print(f"wrote {', '.join(map(str, written))}")
    failed, missing = sum(len(row.failures) for row in rows), sum(len(row.missing) for row in rows)
    if failed or missing:
        say(f"{failed} cells failed, {missing} were not run; the same command tries them again")
    return 1 if failed or missing else 0


def dry_run(sweep: SweepConfig, output: Path) -> None:
    """Print the commands of every cell, and the expected cost of its pretraining."""
    from dnachunker.model.cost import parameters

    start, total = shlex.join(["dnachunker"] if not sweep.command else argv_prefix(sweep)), 0.0
    built = corpus_step(sweep, output)
    if built:
        print(f"# corpus\n{start} {shlex.join(built.argv)}")
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
        print("\n".join(f"{start} {shlex.join(step.argv)}" for step in parts))
    print(f"\n# in all {total / 1e15:,.2f} PFLOP of pretraining, forward and backward, at the target ratios")


def share_of_machine(slot: int, jobs: int) -> dict[str, str]:
    """Environment variables that give each of `jobs` cells at a time its share of the machine.

    GPUs are divided if there are at least as many as cells; cores are divided unless the user has set OMP_NUM_THREADS.
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
    """Print a line on stderr; lines of several cells do not mix."""
    with _SAYING:
        print(line, file=sys.stderr, flush=True)

"""Run one cell: its unfinished steps in order, then its result. A cell may be killed at any time."""

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnachunker.downstream.output_folder import OPTIONS, check_options, claim_folder
from dnachunker.downstream.tasks.task_folders import find_task
from dnachunker.experiments.cells import (
    FAILURE,
    LOG,
    RESULT,
    Cell,
    Step,
    argv_prefix,
    corpus_step,
    identity,
    probe_folder,
    steps,
)
from dnachunker.experiments.config import SweepConfig
from dnachunker.experiments.results.measured import read_cell
from dnachunker.experiments.results.mlflow_runs import cell_overrides
from dnachunker.foundations.atomic_files import write_json
from dnachunker.foundations.failures import BadInput, Failure, Interrupted

from .stopping import STOPPED, Running

_LOCK, _OPTIONS = ".lock", "options"
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class CellRunner:
    """How cells run on this machine.

    Attributes:
        output: the sweep's folder.
        workdir: current folder of the steps.
        running: the processes of the steps.
        say: prints a line for the user.
        shared: environment variables that give the cell its share of the machine.
    """

    sweep: SweepConfig
    output: Path
    workdir: Path
    running: Running
    say: Callable[[str], None] = print
    shared: Mapping[str, str] = field(default_factory=dict)

    def run(self, cell: Cell) -> bool:
        """Run a cell and return whether it has a result. A failure is written to its folder and printed.

        Raises:
            BadInput: the cell was begun with other options; the message names them.
            Interrupted: stopped by a signal; the same command continues.
        """
        check_identity(self.sweep, cell)
        if cell.is_finished():
            return True
        with self._locked(cell.folder, cell.name) as lock:
            if cell.is_finished():  # another process has finished it meanwhile
                return True
            check_identity(self.sweep, cell)  # again, because another process may have begun the cell before the lock
            if not (cell.folder / _OPTIONS / OPTIONS).is_file():
                claim_folder(cell.folder / _OPTIONS, identity(self.sweep, cell))
            (cell.folder / FAILURE).unlink(missing_ok=True)
            began = time.monotonic()
            try:
                self.build_corpus()
                for step in steps(self.sweep, cell, cell_overrides(self.sweep, self.output, cell)):
                    self._run(step, cell.name, cell.folder / LOG, lock)
                write_json(cell.result, _read(self.sweep, cell))
            except Interrupted:
                raise
            except Failure as failure:
                write_json(cell.folder / FAILURE, {"row": cell.row, "seed": cell.seed, "reason": str(failure)})
                self.say(f"{cell.name}: failed: {failure}")
                return False
            self.say(f"{cell.name}: done in {time.monotonic() - began:.0f} s")
            return True

    def build_corpus(self) -> None:
        """Build the corpus of the cells if it does not exist.

        Raises:
            Failure: the step failed.
            Interrupted: stopped by a signal.
        """
        built = corpus_step(self.sweep, self.output)
        if built and not built.done():
            with self._locked(self.output, "corpus") as lock:
                self._run(built, "corpus", self.output / LOG, lock)

    def _run(self, step: Step, name: str, log: Path, lock: int) -> None:
        if step.done():
            return
        if self.running.stopped:
            raise Interrupted(STOPPED)
        self.say(f"{name}: {step.name}")
        argv = [*argv_prefix(self.sweep), *step.argv]
        # PYTHONSAFEPATH: on a Ray cluster no front door has set it, and the user's files lie in the workdir
        variables = {**os.environ, "PYTHONSAFEPATH": "1", **self.shared, **self.sweep.chosen.environment}
        with log.open("ab") as out:
            out.write(f"$ {' '.join(step.argv)}\n".encode())
            out.flush()
            began = out.tell()
            try:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.workdir, env=variables,
                    start_new_session=True,  # Ctrl-C must not reach it directly; `running` asks it to save
                    pass_fds=(lock,),  # if this process is killed, the lock stays until the step ends
                )  # fmt: skip
            except OSError as error:
                raise Failure(f"{argv[0]}: cannot be started: {error.strerror}") from error
            self.running.processes.add(process)
            if self.running.stopped:  # a signal came between the check and the start
                self.running.stop()
            code = process.wait()
            self.running.processes.discard(process)
        if code and self.running.stopped:
            raise Interrupted(STOPPED)
        if code:
            raise Failure(f"{step.name} ended with exit code {code}: {_last_line(log, began)}")
        if not step.done():
            raise Failure(f"{step.name} ended with exit code 0 and its output is missing; see {log}")

    @contextlib.contextmanager
    def _locked(self, folder: Path, name: str) -> Iterator[int]:
        """Hold the lock of `folder`; wait while another process has it, such as a step that outlived a killed sweep."""
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            said = False
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self.running.stopped:
                        raise Interrupted(STOPPED) from None
                    if not said:
                        self.say(f"{name}: waiting for another process that works on it")
                        said = True
                    time.sleep(_POLL_SECONDS)
            yield descriptor
        finally:
            os.close(descriptor)


def _read(sweep: SweepConfig, cell: Cell) -> dict[str, Any]:
    try:
        return read_cell(sweep, cell)
    except Failure:
        raise
    except Exception as error:  # a file with unexpected content is this cell's failure; other cells go on
        raise Failure(f"the results cannot be read: {type(error).__name__}: {error}") from error


def check_identity(sweep: SweepConfig, cell: Cell) -> None:
    """Refuse a cell that was begun with other options.

    Raises:
        BadInput: naming the cell's folder and the key that changed.
    """
    stored = cell.folder / _OPTIONS / OPTIONS
    if stored.is_file():
        before, everything = json.loads(stored.read_text("utf-8")), identity(sweep, cell, with_defaults=True)
        everything = json.loads(json.dumps(everything))
        # a stored key at its default is the same as a key that `identity` leaves out
        same = {key: everything[key] for key, value in before.items() if key in everything and everything[key] == value}
        check_options(cell.folder / _OPTIONS, before, json.loads(json.dumps(identity(sweep, cell))) | same)


def check_probe_data(sweep: SweepConfig, cells: Sequence[Cell]) -> None:
    """Refuse earlier probes whose tasks have the same name and other data; `Task.identity` compares the data.

    Raises:
        BadInput: naming the probe's folder.
    """
    probe = sweep.probe
    for task in probe.tasks if probe.folder else ():
        data = Path(probe.folder or "", task)
        stored = [probe_folder(sweep, cell) / task / probe.method / RESULT for cell in cells]
        made_of = {path: json.loads(path.read_text("utf-8")).get("data") for path in stored if path.is_file()}
        if not any(made_of.values()) or not data.is_dir():  # tables can be written without the data
            continue
        wanted = find_task(data).identity()
        for path, found in made_of.items():
            if found not in (None, wanted):
                raise BadInput(f"{path.parent}: is a probe of other data than {data} holds; choose another --output")


def _last_line(log: Path, began: int) -> str:
    with log.open("rb") as file:
        file.seek(max(began, log.stat().st_size - 4096))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    ours = [line.removeprefix("dnachunker: ") for line in lines if line.startswith("dnachunker: ")]
    return ((ours or lines or ["no output"])[-1])[:300]

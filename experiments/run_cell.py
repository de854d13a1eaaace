"""Run one cell: its commands in order, each only if it is not done, then its result; safe to kill anywhere."""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from downstream.output_folder import claim_folder, write_json
from failures import BadInput, Failure, Interrupted

from .cells import FAILURE, LOG, Cell, Step, corpus_step, identity, launcher, steps, variables
from .config import SweepConfig
from .results import read_cell

_LOCK = ".lock"
_INTERRUPTED = Interrupted.code


@dataclass
class Running:
    """The commands that run now, so that a signal can reach them."""

    stopped: bool = False
    processes: set["subprocess.Popen[bytes]"] = field(default_factory=set)

    def stop(self) -> None:
        """Ask all of them to save and end, and start no others."""
        self.stopped = True
        for process in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)


def run_cell(
    sweep: SweepConfig,
    cell: Cell,
    output: Path,
    *,
    workdir: Path,
    tracking: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    running: Running | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Bring a cell to its result; returns whether it has one. A failure is written beside it and told.

    Args:
        output: the sweep's folder.
        workdir: what relative paths of the commands mean.
        tracking: overrides of `pretrain`.
        environment: further variables of the commands.

    Raises:
        BadInput: the cell's folder was made with other options; the message names them.
        Interrupted: a signal came; the same command continues.
    """
    running = running or Running()
    check_identity(sweep, cell)
    if cell.is_finished():
        return True
    with _locked(cell.folder, cell.name, running, say) as lock:
        if cell.is_finished():  # another process has finished it meanwhile
            return True
        claim_folder(cell.folder / "options", identity(sweep, cell))
        (cell.folder / FAILURE).unlink(missing_ok=True)
        settings = {**variables(sweep), **(environment or {})}
        began = time.monotonic()
        try:
            built = corpus_step(sweep, output)
            if built and not built.done():
                with _locked(output, "the corpus", running, say) as other:
                    _run(sweep, built, output / LOG, workdir, settings, other, running, say)
            for step in steps(sweep, cell, tracking):
                _run(sweep, step, cell.folder / LOG, workdir, settings, lock, running, say, cell.name)
            write_json(cell.result, read_cell(sweep, cell))
        except Interrupted:
            raise
        except Failure as failure:
            write_json(cell.folder / FAILURE, {"row": cell.row, "seed": cell.seed, "reason": str(failure)})
            say(f"{cell.name}: failed: {failure}")
            return False
        say(f"{cell.name}: done in {time.monotonic() - began:.0f} s")
        return True


def check_identity(sweep: SweepConfig, cell: Cell) -> None:
    """Refuse a cell that was begun with other options.

    Raises:
        BadInput: naming the cell's folder and the key that changed.
    """
    if (cell.folder / "options").is_dir():
        claim_folder(cell.folder / "options", identity(sweep, cell))


def _run(
    sweep: SweepConfig, step: Step, log: Path, workdir: Path, settings: Mapping[str, str], lock: int,
    running: Running, say: Callable[[str], None], name: str = "corpus",
) -> None:  # fmt: skip
    if step.done():
        return
    if running.stopped:
        raise Interrupted("stopped; run the same command to continue")
    say(f"{name}: {step.name}")
    command = [*launcher(sweep), *step.arguments]
    with log.open("ab") as out:
        out.write(f"$ {' '.join(step.arguments)}\n".encode())
        out.flush()
        began = out.tell()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=workdir, env=dict(settings),
                start_new_session=True,  # Ctrl-C must reach it once, as a request to save, through `running`
                pass_fds=(lock,),  # should this process be killed, the cell stays locked as long as the command runs
            )  # fmt: skip
        except OSError as error:
            raise BadInput(f"{command[0]}: cannot be started: {error.strerror}") from error
        running.processes.add(process)
        if running.stopped:  # the signal came between the check and the start
            running.stop()
        code = process.wait()
        running.processes.discard(process)
    if running.stopped and code:
        raise Interrupted("stopped; run the same command to continue")
    if code:
        raise Failure(f"{step.name} ended with exit code {code}: {_last_line(log, began)}")
    if not step.done():
        raise Failure(f"{step.name} ended well and left nothing behind; see {log}")


def _last_line(log: Path, began: int) -> str:
    with log.open("rb") as file:
        file.seek(max(began, log.stat().st_size - 4096))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    ours = [line.removeprefix("dnachunker: ") for line in lines if line.startswith("dnachunker: ")]
    return ((ours or lines or ["it said nothing"])[-1])[:300]


@contextlib.contextmanager
def _locked(folder: Path, name: str, running: Running, say: Callable[[str], None]) -> Iterator[int]:
    """Hold `folder` alone; waits for whoever does, such as a command that outlived a killed sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        said = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if running.stopped:
                    raise Interrupted("stopped; run the same command to continue") from None
                if not said:
                    say(f"{name}: another process is at it; waiting")
                    said = True
                time.sleep(0.5)
        yield descriptor
    finally:
        os.close(descriptor)

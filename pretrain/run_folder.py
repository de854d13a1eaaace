"""A run folder: its stored config, and the lock that lets one job at a time train in it."""

import contextlib
import fcntl
import os
import shlex
import time
from pathlib import Path

from dnachunker.foundations.atomic_files import PARTIAL, write_text
from dnachunker.foundations.failures import BadInput, one_line
from dnachunker.foundations.typed_config import to_yaml, validate_config

from .config import PretrainConfig

CONFIG = "config.yaml"
PROBES = "probes"  # in it, step-NNNNNNNN.json for each probed checkpoint
_LOCK = ".lock"
_UNSTARTED = ".unstarted"  # a start made the folder's config, and no run has begun
_OLD_SECONDS = 60


class RunLock:
    """An advisory lock on a run folder, held until released or until the process ends, however it ends."""

    def __init__(self, run: Path) -> None:
        """
        Raises:
            BadInput: another process trains in this folder.
        """
        self._descriptor = os.open(run / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise BadInput(f"{run}: another process is training in this run folder; stop it or wait for it") from error
        # ranks and `report` write small files here too, at any time: only an old partial is of a killed process
        for left in [*run.glob(f"{PARTIAL}*"), *run.glob(f"*/{PARTIAL}*")]:
            with contextlib.suppress(FileNotFoundError):
                if left.is_file() and time.time() - left.stat().st_mtime > _OLD_SECONDS:
                    left.unlink()

    def release(self) -> None:
        """Allow other processes to train in this folder."""
        os.close(self._descriptor)


def store_config(config: PretrainConfig) -> Path:
    """Write the resolved config into the run folder, creating it; returns the file.

    Raises:
        BadInput: another process is training in the run folder.
    """
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    RunLock(run).release()  # rank 0 takes the lock for good; this check comes before the slow start of ranks
    if not (run / CONFIG).exists():
        (run / _UNSTARTED).touch()
    write_text(run / CONFIG, to_yaml(config))
    return run / CONFIG


def mark_started(run: Path) -> None:
    """From now on the folder belongs to a run that has begun."""
    (run / _UNSTARTED).unlink(missing_ok=True)


def discard_unstarted(run: Path) -> None:
    """Remove what the start of a refused run has made, and the folder if nothing else is in it."""
    if (run / _UNSTARTED).exists():
        for name in (CONFIG, _LOCK, _UNSTARTED):
            (run / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # files of the user stay
            run.rmdir()


def next_steps(run: Path, exported: Path | None = None) -> str:
    """What to type after a run has ended, one command a line.

    Args:
        exported: the folder of the run's export, if there is one already.
    """
    first = [] if exported else [("report", run), ("export", run, Path("exported", run.name))]
    model = exported or Path("exported", run.name)
    task = ("finetune", "--model", model, "--task", "sample:coding", "--output", Path("results", run.name))
    return "\n".join(f"  dnachunker {shlex.join(map(str, words))}" for words in (*first, task))


def read_config(run: Path) -> PretrainConfig:
    """The resolved config a run was last started with.

    Raises:
        BadInput: the folder is not a run, or its config is not readable.
    """
    from yaml import YAMLError, safe_load

    path = run / CONFIG
    try:
        values = safe_load(path.read_text())
    except FileNotFoundError as error:
        raise BadInput(f"{run}: not a run folder: no {CONFIG} in it") from error
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise BadInput(f"{path}: not readable: {one_line(error)}") from error
    try:
        return validate_config(PretrainConfig, values, origin=str(path))
    except BadInput as error:
        raise BadInput(f"{error}; if another version of dnachunker made this run, use that version") from error

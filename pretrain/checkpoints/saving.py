"""Checkpoints that are complete or absent.

Every rank writes its files into a partial, and lists the sha256 of each. Rank 0 then joins the lists to the manifest,
renames the partial to `step-NNNNNNNN`, and last moves the `latest` pointer, which is for people and scripts. Loading
takes the newest checkpoint whose manifest verifies, so that a damaged file is never read. The manifest proves that the
files are whole, not who wrote them; no file of a checkpoint can run code. docs/checkpoints.md describes the files.
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from dnachunker.foundations.atomic_files import write_text
from dnachunker.foundations.failures import BadInput, Failure, one_line
from dnachunker.pretrain.config import CheckpointSettings
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine
from dnachunker.pretrain.engine.ranks import Rank

from .state import CHECKPOINTS, STATE, RunState, complete_checkpoints, step_of
from .stored_parts import OPTIMIZER, WEIGHTS, moments_file

PROBE = "probe.safetensors"
MANIFEST = "manifest.json"
LATEST = "latest"
_NICENESS = 10  # of the thread that writes, beside training


class HostMemory:
    """Host memory that each save copies tensors into; the pages are touched once, at the first save."""

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}

    def copy(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Copies of named tensors, which last until the next call with these names; from a GPU in pinned memory.

        A name stands for a tensor of one shape and dtype in all calls.
        """
        copies, on_gpu = {}, False
        for name, tensor in tensors:
            if name not in self._kept:
                self._kept[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            copies[name] = self._kept[name].copy_(tensor, non_blocking=True)
            on_gpu = on_gpu or tensor.is_cuda
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        return copies


def writing_thread(settings: CheckpointSettings) -> Executor:
    """The one thread of this rank that writes checkpoints."""
    return ThreadPoolExecutor(1, "checkpoint", _stand_back if settings.asynchronous else None)


def _stand_back() -> None:
    """Lower the priority of the calling thread, because training comes first."""
    with contextlib.suppress(AttributeError, OSError):  # threads have priorities of their own on Linux only
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class Save:
    """A checkpoint of the current step on its way: begun by all ranks, written by each, named by rank 0.

    A thread of each rank writes and hashes the rank's files, without any collective. With `checkpoint.asynchronous`
    the rank copies its states to host memory first, and training goes on meanwhile. The ranks agree on how far they
    are in a sum that training makes anyway:

        if save.advance(*rank.sum(*save.progress())):
            ...  # the checkpoint is complete
    """

    def __init__(
        self,
        run: Path,
        engine: TrainingEngine,
        state: RunState,
        probe: Mapping[str, torch.Tensor],
        rank: Rank,
        settings: CheckpointSettings,
        memory: HostMemory,
        thread: Executor,
    ) -> None:
        """Begin; collective. Without `checkpoint.asynchronous`, this rank has written its files on return.

        Args:
            probe: named tensors (inputs and the logits they gave) that an export is checked against.
            settings: which older checkpoints are removed at the end.
            memory: that the copies lie in; no other save may be on its way.
            thread: of `writing_thread`.
        """
        self.steps_done = state.steps_done
        self.folder = run / CHECKPOINTS / f"step-{state.steps_done:08d}"
        self._run, self._rank, self._settings, self._thread = run, rank, settings, thread
        self._partial = self.folder.with_name(f".{self.folder.name}.partial")
        self._written = False  # the files of all ranks
        self.seconds, self._began = 0.0, time.monotonic()  # from the beginning until this rank has written its files
        kept = memory.copy if settings.asynchronous else _on_host
        files: dict[str, Callable[[Path], object]] = {
            moments_file(rank.rank): partial(save_file, kept(engine.moments().items()))
        }
        weights = kept(engine.weights())
        if rank.is_main:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in probe.items()}
            text = state.model_dump_json(indent=1) + "\n"
            files[WEIGHTS] = partial(save_file, weights)
            files[PROBE] = partial(save_file, tensors)
            files[STATE] = lambda path: path.write_text(text)
        self._work = thread.submit(self._write, files)
        if not settings.asynchronous:
            wait([self._work])

    def progress(self) -> tuple[float, float]:
        """What this rank hands to a sum over ranks: whether its thread still works, and whether it has failed."""
        ended = self._work.done()
        return float(not ended), float(ended and self._work.exception() is not None)

    def advance(self, working: float, failed: float) -> bool:
        """Go on towards the complete checkpoint; waits for nothing.

        When all ranks have written their files, rank 0 gives the checkpoint its name and removes superseded ones.

        Args:
            working, failed: `progress` summed over all ranks.

        Returns:
            Whether the checkpoint is complete.

        Raises:
            Failure: on every rank, when a rank could not write, or rank 0 found too little space for a checkpoint as
                large as the last.
        """
        if working:
            return False
        if failed:
            errors = [error for error in self._rank.gather(self._error()) if error]
            failure = Failure(f"{self._partial}: cannot be written: {errors[0]}; older checkpoints are intact")
            failure.on_all_ranks = True
            raise failure
        if self._written:
            return True
        self._written = True
        if self._rank.is_main:
            self._work = self._thread.submit(self._name)
        return False

    def finish(self) -> None:
        """Wait for the complete checkpoint; collective. Raises what `advance` raises."""
        complete = False
        while not complete:
            wait([self._work])
            complete = self.advance(*self._rank.sum(*self.progress()))

    def _error(self) -> str:
        error = self._work.exception()
        return (one_line(error)[:300] or type(error).__name__) if error else ""

    def _write(self, files: Mapping[str, Callable[[Path], object]]) -> None:
        """Write this rank's files, and the list of their sha256 for rank 0."""
        if self._rank.is_main and (lack := _lack_of_space(self._run)):
            raise Failure(lack)
        (self._partial / OPTIMIZER).mkdir(parents=True, exist_ok=True)
        digests = {}
        for name, write in files.items():
            path = self._partial / name
            write(path)
            digests[name] = digest_of(path)
            sync(path)
        self._list_of(self._rank.rank).write_text(json.dumps(digests))
        sync(self._list_of(self._rank.rank))  # rank 0 may be on another machine
        self.seconds = time.monotonic() - self._began

    def _name(self) -> None:
        """Make the checkpoint complete, from files that are all written; work of rank 0."""
        manifest: dict[str, str] = {}
        for rank in range(self._rank.world_size):
            manifest |= json.loads(self._list_of(rank).read_text())
            self._list_of(rank).unlink()
        (self._partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        sync(self._partial / MANIFEST)
        for folder in (self._partial / OPTIMIZER, self._partial):
            sync(folder)
        shutil.rmtree(self.folder, ignore_errors=True)  # the same step saved again after a roll-back
        self._partial.rename(self.folder)
        sync(self.folder.parent)
        write_text(self._run / CHECKPOINTS / LATEST, self.folder.name + "\n")
        for old in superseded(complete_checkpoints(self._run), self._settings):
            # by another name first, so that it is never half there; a file system may keep files that others read
            removed = old.rename(old.with_name(f".{old.name}.removed.partial"))
            shutil.rmtree(removed, ignore_errors=True)

    def _list_of(self, rank: int) -> Path:
        return self._partial / f"sha256-{rank:05d}.json"


def _on_host(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Named tensors, those of a GPU copied one after the other: the engine gathers weights as they are asked for."""
    return {name: tensor.cpu() for name, tensor in tensors}


def discard_partials(run: Path) -> None:
    """Remove what interrupted saves have left."""
    for stale in (run / CHECKPOINTS).glob(".step-*.partial"):
        shutil.rmtree(stale, ignore_errors=True)


def superseded(checkpoints: list[Path], settings: CheckpointSettings) -> list[Path]:
    """Those of `checkpoints` (oldest first) that neither `keep` nor `keep_every` keeps."""
    older = checkpoints[: -settings.keep]
    return [path for path in older if not settings.keep_every or step_of(path) % settings.keep_every]


def _lack_of_space(run: Path) -> str:
    """A line for the user when a checkpoint as large as the newest would not fit; empty when it would."""
    found = complete_checkpoints(run)
    if not found:
        return ""
    needed = sum(path.stat().st_size for path in found[-1].rglob("*") if path.is_file())
    free = shutil.disk_usage(run).free
    if free >= needed:
        return ""
    return (
        f"{run}: a checkpoint needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room or lower "
        f"checkpoint.keep, then run the same command to continue from {found[-1].name}"
    )


def require_space(run: Path, needed: int) -> None:
    """Refuse to start a run whose checkpoints, each of `needed` bytes, would not fit.

    Raises:
        BadInput: too little space for two of them, since the old one stays while the next is a partial.
    """
    needed, free = 2 * needed, shutil.disk_usage(run).free
    if free < needed:
        raise BadInput(
            f"{run}: checkpoints of this model need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room "
            f"or choose another run folder"
        )


def choose_checkpoint(run: Path, step: int | None = None) -> Path:
    """The newest complete checkpoint, or the one of `step`, with its manifest verified.

    Raises:
        BadInput: there is no such checkpoint, or a file is missing or does not match its sha256.
    """
    found = complete_checkpoints(run)
    if step is not None:
        found = [p for p in found if step_of(p) == step]
    if not found:
        at_step = "" if step is None else f" of step {step}"
        raise BadInput(f"{run}: no complete checkpoint{at_step}; a run saves one every checkpoint.every steps")
    verify_checkpoint(found[-1])
    return found[-1]


def newest_whole_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """What a resume starts from: the newest checkpoint whose manifest verifies, and what is wrong with newer ones.

    Returns:
        None for a run that has not saved yet.

    Raises:
        BadInput: there are checkpoints, and all are damaged.
    """
    damage: list[str] = []
    found = complete_checkpoints(run)
    for checkpoint in reversed(found):
        try:
            verify_checkpoint(checkpoint)
        except BadInput as error:
            damage.append(str(error))
        else:
            return checkpoint, damage
    if found:
        raise BadInput(f"{run}: every checkpoint is damaged: {damage[0]}; start a new run with another run folder")
    return None, []


def verify_checkpoint(checkpoint: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        BadInput: naming the first file that is missing, unexpected or different.
    """
    remedy = "remove this checkpoint folder to use the one before it"
    try:
        expected = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise BadInput(f"{checkpoint / MANIFEST}: not readable ({error}); {remedy}") from error
    actual = _digests(checkpoint)
    for name in sorted({*expected, *actual}):
        if expected.get(name) != actual.get(name):
            what = (
                "is missing" if name not in actual else "is not in the manifest" if name not in expected else "differs"
            )
            raise BadInput(f"{checkpoint / name}: {what}; {remedy}")


def _digests(folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: digest_of(path) for name, path in files.items() if name != MANIFEST}


def digest_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

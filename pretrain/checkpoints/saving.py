"""Checkpoints that are complete or absent.

Every rank writes its files into a partial, with the sha256 of each. Rank 0 then writes the manifest of all of them,
renames the partial to `step-NNNNNNNN`, and last moves the `latest` pointer, which is for people and scripts. Loading
takes the newest checkpoint whose manifest verifies, so that a damaged file is never read. The manifest proves that the
files are whole, not who wrote them; no file of a checkpoint can run code. docs/checkpoints.md describes the files.
"""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
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
_LATEST = "latest"


class Save:
    """A checkpoint of the current step on its way: begun by all ranks, written by each, committed by all.

    With `checkpoint.asynchronous` the ranks copy their states to host memory, and a thread of each rank writes the copy
    while training goes on. The thread uses no collective.
    """

    def __init__(
        self,
        run: Path,
        engine: TrainingEngine,
        state: RunState,
        probe: Mapping[str, torch.Tensor],
        rank: Rank,
        settings: CheckpointSettings,
    ) -> None:
        """Begin; collective. Without `checkpoint.asynchronous`, everything is written on return.

        Args:
            probe: named tensors (inputs and the logits they gave) that an export is checked against.
            settings: which older checkpoints `commit` removes.

        Raises:
            Failure: too little space is left for a checkpoint as large as the last; nothing was written.
        """
        self.steps_done = state.steps_done
        self._run, self._rank, self._settings = run, rank, settings
        self._final = run / CHECKPOINTS / f"step-{state.steps_done:08d}"
        self._partial = run / CHECKPOINTS / f".{self._final.name}.partial"
        self._error, self._digests = "", dict[str, str]()
        self.seconds, self._began = 0.0, time.monotonic()  # from the beginning until this rank has written its files
        self._make_partial()
        copied = host_copy if settings.asynchronous else dict
        moments = copied(engine.moments())
        files: dict[str, Callable[[Path], object]] = {moments_file(rank.rank): partial(save_file, moments)}
        weights = host_copy(engine.weights())  # at ZeRO stage 3 the engine gathers one weight after the other
        if rank.is_main:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in probe.items()}
            text = state.model_dump_json(indent=1) + "\n"
            files[WEIGHTS] = partial(save_file, weights)
            files[PROBE] = partial(save_file, tensors)
            files[STATE] = lambda path: path.write_text(text)
        self._thread: threading.Thread | None = None
        if settings.asynchronous:
            self._thread = threading.Thread(target=self._write, args=(files,), name="checkpoint", daemon=True)
            self._thread.start()
        else:
            self._write(files)

    @property
    def written(self) -> bool:
        """Whether all ranks have written their files; collective."""
        return not self._rank.any(self._thread is not None and self._thread.is_alive())

    def commit(self) -> Path:
        """Wait until all ranks have written, give the checkpoint its name, and remove superseded ones; collective.

        Returns:
            The checkpoint's folder.

        Raises:
            Failure: on every rank, when a rank could not write.
        """
        if self._thread:
            self._thread.join()
        told = self._rank.gather((self._error, self._digests))
        errors = [error for error, _ in told if error]
        if errors:
            failure = Failure(f"{self._partial}: cannot be written: {errors[0]}; older checkpoints are intact")
            failure.on_all_ranks = True
            raise failure
        if self._rank.is_main:
            manifest = {name: digest for _, digests in told for name, digest in digests.items()}
            (self._partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
            sync(self._partial / MANIFEST)
            for folder in (self._partial / OPTIMIZER, self._partial):
                sync(folder)
            shutil.rmtree(self._final, ignore_errors=True)  # the same step saved again after a roll-back
            self._partial.rename(self._final)
            sync(self._final.parent)
            write_text(self._run / CHECKPOINTS / _LATEST, self._final.name + "\n")
            for old in superseded(complete_checkpoints(self._run), self._settings):
                shutil.rmtree(old)
        self._rank.barrier()
        return self._final

    def _make_partial(self) -> None:
        short = ""
        if self._rank.is_main:
            for stale in (self._run / CHECKPOINTS).glob(".step-*.partial"):
                shutil.rmtree(stale)  # of interrupted saves
            short = _lack_of_space(self._run)
            if not short:
                (self._partial / OPTIMIZER).mkdir(parents=True)
        if self._rank.any(bool(short)):
            raise Failure(short or f"{self._run}: rank 0 has too little space for a checkpoint")
        self._rank.barrier()

    def _write(self, files: Mapping[str, Callable[[Path], object]]) -> None:
        try:
            for name, write in files.items():
                path = self._partial / name
                write(path)
                self._digests[name] = digest_of(path)
                sync(path)
        except Exception as error:  # `commit` raises it on every rank
            self._error = one_line(error)[:200] or type(error).__name__
        self.seconds = time.monotonic() - self._began


def host_copy(tensors: Iterable[tuple[str, torch.Tensor]] | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of every tensor in host memory; from a GPU through pinned memory."""
    named = tensors.items() if isinstance(tensors, Mapping) else tensors
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda).copy_(tensor)
        for name, tensor in named
    }


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


def require_space(run: Path, parameters: int) -> None:
    """Refuse to start a run whose checkpoints would not fit.

    Raises:
        BadInput: too little space for two checkpoints, since the old one stays while the next is a partial; each holds
            the weights and both moments in fp32.
    """
    needed, free = 2 * 12 * parameters, shutil.disk_usage(run).free
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

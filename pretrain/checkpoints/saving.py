"""Checkpoints that are complete or absent.

Every rank writes into a partial. Rank 0 then writes a manifest with the sha256 of each file, renames the partial to
`step-NNNNNNNN`, and last moves the `latest` pointer, which is for people and scripts. Loading takes the newest
checkpoint whose manifest verifies, so that a damaged file is never read. The manifest proves that the files are whole,
not who wrote them: no file of a checkpoint can run code (see `engine/plain_states.py`). docs/checkpoints.md describes
the files.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dnachunker.foundations.atomic_files import write_text
from dnachunker.foundations.failures import BadInput, Failure, one_line
from dnachunker.pretrain.config import CheckpointSettings
from dnachunker.pretrain.engine.deepspeed_engine import WEIGHTS, TrainingEngine
from dnachunker.pretrain.engine.ranks import Rank

from .state import CHECKPOINTS, STATE, RunState, complete_checkpoints, step_of

PROBE = "probe.safetensors"
MANIFEST = "manifest.json"
_LATEST = "latest"


def save_checkpoint(
    run: Path,
    engine: TrainingEngine,
    state: RunState,
    probe: Mapping[str, torch.Tensor],
    rank: Rank,
    settings: CheckpointSettings,
) -> Path:
    """Write a checkpoint of the current step; collective.

    Args:
        probe: named tensors (inputs and the logits they gave) that an export is checked against.
        settings: which older checkpoints to remove once the new one is complete.

    Returns:
        The checkpoint's folder.

    Raises:
        Failure: too little space is left for a checkpoint as large as the last; nothing was written.
    """
    final = run / CHECKPOINTS / f"step-{state.steps_done:08d}"
    partial = run / CHECKPOINTS / f".{final.name}.partial"
    short = ""
    if rank.is_main:
        for stale in (run / CHECKPOINTS).glob(".step-*.partial"):
            shutil.rmtree(stale)  # of interrupted saves
        short = _lack_of_space(run)
        if not short:
            partial.mkdir(parents=True)
    if rank.any(bool(short)):
        raise Failure(short or f"{run}: rank 0 has too little space for a checkpoint")
    rank.barrier()
    try:
        engine.save(partial)
        weights = engine.weights()
        if rank.is_main:
            save_file(weights, partial / WEIGHTS)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise Failure(f"{partial}: cannot be written: {one_line(error)[:200]}; older checkpoints are intact") from error
    rank.barrier()
    if rank.is_main:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in probe.items()}, partial / PROBE)
        (partial / STATE).write_text(state.model_dump_json(indent=1) + "\n")
        (partial / MANIFEST).write_text(json.dumps(_digests(partial), indent=1, sort_keys=True) + "\n")
        _sync_tree(partial)
        shutil.rmtree(final, ignore_errors=True)  # the same step saved again after a roll-back
        partial.rename(final)
        _sync(final.parent)
        write_text(run / CHECKPOINTS / _LATEST, final.name + "\n")
        for old in superseded(complete_checkpoints(run), settings):
            shutil.rmtree(old)
    rank.barrier()
    return final


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
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Checkpoints that are complete or absent.

Every rank writes into a staging folder; rank 0 then writes a manifest with the sha256 of each file, renames the
folder to `step-NNNNNNNN`, and last moves the `latest` pointer, which is for people and scripts: loading takes the
newest complete checkpoint and verifies its manifest first, so that a damaged file is never read. The manifest proves
that the files are whole, not who wrote them: DeepSpeed's state is pickled, so only resume and export runs you trust.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from failures import BadInput

from .distributed import Rank
from .engine import TrainingEngine
from .run_state import CHECKPOINTS, STATE, RunState, complete_checkpoints

PROBE = "probe.safetensors"
_MANIFEST = "manifest.json"
_LATEST = "latest"


def save_checkpoint(
    run: Path, engine: TrainingEngine, state: RunState, probe: dict[str, Any], rank: Rank, *, keep: int
) -> Path:
    """Write a checkpoint of the current step; collective.

    Args:
        probe: named tensors (inputs and the logits they gave) that an export is checked against.
        keep: newest checkpoints kept; older ones are removed once the new one is complete.

    Returns:
        The checkpoint's folder.
    """
    final = run / CHECKPOINTS / f"step-{state.steps_done:08d}"
    staging = run / CHECKPOINTS / f".{final.name}.partial"
    if rank.is_main:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    rank.barrier()
    engine.save(staging)
    rank.barrier()
    if rank.is_main:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in probe.items()}, staging / PROBE)
        (staging / STATE).write_text(state.model_dump_json(indent=1) + "\n")
        (staging / _MANIFEST).write_text(json.dumps(_digests(staging), indent=1, sort_keys=True) + "\n")
        _sync_tree(staging)
        shutil.rmtree(final, ignore_errors=True)  # the same step saved again after a roll-back
        staging.rename(final)
        _sync(final.parent)
        pointer = run / CHECKPOINTS / f".{_LATEST}.partial"
        pointer.write_text(final.name + "\n")
        pointer.replace(run / CHECKPOINTS / _LATEST)
        for old in complete_checkpoints(run)[:-keep]:
            shutil.rmtree(old)
    rank.barrier()
    return final


def choose_checkpoint(run: Path, step: int | None = None) -> Path:
    """The newest complete checkpoint, or the one of `step`, with its manifest verified.

    Raises:
        BadInput: there is none, or a file is missing or does not match its sha256.
    """
    found = complete_checkpoints(run)
    if step is not None:
        found = [p for p in found if p.name == f"step-{step:08d}"]
    if not found:
        at_step = "" if step is None else f" of step {step}"
        raise BadInput(f"{run}: no complete checkpoint{at_step}; a run saves one every checkpoint.every steps")
    verify_checkpoint(found[-1])
    return found[-1]


def verify_checkpoint(checkpoint: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        BadInput: naming the first file that is missing, unexpected or different.
    """
    remedy = "remove this checkpoint folder to use the one before it"
    try:
        expected = json.loads((checkpoint / _MANIFEST).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise BadInput(f"{checkpoint / _MANIFEST}: not readable ({error}); {remedy}") from error
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
        if path.is_file() and name != _MANIFEST:
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

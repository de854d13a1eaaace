"""What a checkpoint says about its run, and whether a config may continue that run. Torch-free."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import Config
from dnachunker.pretrain.config import PretrainConfig

CHECKPOINTS = "checkpoints"
STATE = "run_state.json"
FORMAT = 4  # of a checkpoint; grows when an older one cannot be read. 4: moments as safetensors, by parameter
_NAME = re.compile(r"step-(\d{8})")

# A change of one of these would make it another run: other samples, other weights or another loss.
_IDENTITY = ("seed", "model", "tokenization", "data", "masking", "optimizer", "schedule", "steps")


class Parent(Config):
    """The model whose weights a run started from."""

    model: str  # init.model of the run; a resume does not read it again
    fingerprint: str  # of its weights: see warm_start.py
    steps_done: int | None = None  # of its own training
    reset: tuple[str, ...] = ()  # parts that were not taken from it


class RunState(Config):
    """Small, readable part of a checkpoint; the weights lie beside it."""

    format: int = FORMAT
    steps_done: int
    samples_seen: int
    updates: int  # optimizer updates: steps, less those whose gradients were not finite
    skipped_batches: list[int]  # by number in the sample order: see guards.spike=roll_back
    guards: dict[str, Any]
    chunk_shares: tuple[tuple[float, ...], ...] = ()  # see engine/chunk_capacity.py
    world_size: int
    micro_batch: int | None = None  # windows in a pass of a rank; older versions did not store it
    zero_stage: int
    precision: str
    device: str
    corpus_fingerprint: str
    identity: dict[str, Any]
    merges: str = ""  # byte pairs, with tokenization.kind=bpe
    parent: Parent | None = None
    versions: dict[str, str]


def complete_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first; partials of interrupted saves are not among them."""
    folder = run / CHECKPOINTS
    return [folder / name for name in checkpoint_names(os.listdir(folder))] if folder.is_dir() else []


def checkpoint_names(names: Iterable[str]) -> list[str]:
    """Those of `names` that complete checkpoints have, oldest first."""
    return sorted(filter(_NAME.fullmatch, names))


def step_of(checkpoint: Path) -> int:
    """Steps done when a checkpoint was made."""
    return int(checkpoint.name.removeprefix("step-"))


def read_state(checkpoint: Path) -> RunState:
    """The run state of a checkpoint.

    Raises:
        BadInput: the run state is missing, not readable, or of another format.
    """
    path = checkpoint / STATE
    try:
        stored = json.loads(path.read_text())
        if stored["format"] == FORMAT:
            return RunState.model_validate(stored)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not readable; remove this checkpoint to use the one before it") from error
    raise BadInput(
        f"{path}: has format {stored['format']}, and this version of dnachunker reads format {FORMAT}; "
        "continue or export the run with the version that made it"
    )


def identity_of(config: PretrainConfig) -> dict[str, Any]:
    """The part of a config that a resume must not change; the location of the corpus may change."""
    values = config.model_dump(mode="json", include=set(_IDENTITY))
    values["data"].pop("corpus")
    return values


def require_same_run(state: RunState, config: PretrainConfig, corpus_fingerprint: str) -> None:
    """Refuse to continue a run under another order, model or schedule; ranks and ZeRO stage may change.

    Raises:
        BadInput: naming the first field that changed and both values.
    """
    changed = _first_difference(_with_defaults(state.identity), identity_of(config))
    if changed:
        key, before, after = changed
        raise BadInput(
            f"{config.run}: cannot resume: {key} was {before!r} and is now {after!r}; "
            f"set it back, or start a new run with another run folder"
        )
    parent = state.parent
    facts = {
        "init.model": (parent and parent.model, config.init.model),
        "init.reset": (list(parent.reset) if parent else [], list(config.init.reset)),
        "the corpus's content": (state.corpus_fingerprint, corpus_fingerprint),
        "engine.precision": (state.precision, config.engine.precision),
    }
    for name, (before, after) in facts.items():
        if before != after:
            raise BadInput(f"{config.run}: cannot resume: {name} was {before} and is now {after}; set it back")


def _with_defaults(identity: dict[str, Any]) -> dict[str, Any]:
    """A stored identity, with defaults for settings that the version that stored it did not have."""
    known = {**identity, "run": "", "data": {**identity["data"], "corpus": ""}}
    return identity_of(PretrainConfig.model_validate(known))


def _first_difference(before: Any, after: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            found = _first_difference(before.get(name), after.get(name), f"{key}.{name}" if key else str(name))
            if found:
                return found
        return None
    return None if before == after else (key, before, after)

"""What a checkpoint says about its run, and whether a config may continue it."""

from typing import Any

from failures import BadInput
from typed_config import Config

from .config import PretrainConfig

# A change here would make another run of it: other samples, other weights or another loss.
_IDENTITY = ("seed", "model", "data", "masking", "optimizer", "schedule", "steps")


class RunState(Config):
    """Small, readable part of a checkpoint; the weights lie beside it."""

    format: int = 1
    steps_done: int
    samples_seen: int
    world_size: int
    zero_stage: int
    precision: str
    corpus_fingerprint: str
    identity: dict[str, Any]
    versions: dict[str, str]


def identity_of(config: PretrainConfig) -> dict[str, Any]:
    """The part of a config that a resume must not change; where the corpus lies may."""
    values = config.model_dump(mode="json", include=set(_IDENTITY))
    values["data"].pop("corpus")
    return values


def require_same_run(state: RunState, config: PretrainConfig, corpus_fingerprint: str, world_size: int) -> None:
    """Refuse to continue a run under another order, model, schedule or number of ranks.

    Raises:
        BadInput: naming the first field that changed and both values.
    """
    changed = _first_difference(state.identity, identity_of(config))
    if changed:
        key, before, after = changed
        raise BadInput(
            f"{config.run}: cannot resume: {key} was {before!r} and is now {after!r}; "
            f"set it back, or start a new run with another run folder"
        )
    facts = {
        "the corpus's content": (state.corpus_fingerprint, corpus_fingerprint),
        "engine.zero_stage": (state.zero_stage, config.engine.zero_stage),
        "engine.precision": (state.precision, config.engine.precision),
        "the number of ranks": (state.world_size, world_size),
    }
    for name, (before, after) in facts.items():
        if before != after:
            raise BadInput(f"{config.run}: cannot resume: {name} was {before} and is now {after}; set it back")


def _first_difference(before: Any, after: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            found = _first_difference(before.get(name), after.get(name), f"{key}.{name}" if key else str(name))
            if found:
                return found
        return None
    return None if before == after else (key, before, after)

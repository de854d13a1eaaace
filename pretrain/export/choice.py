"""Which checkpoint of a run an export takes: the newest whose next evaluation was sound."""

import math
from pathlib import Path
from typing import Any

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.checkpoints.saving import choose_checkpoint, verify_checkpoint
from dnachunker.pretrain.checkpoints.state import complete_checkpoints, step_of
from dnachunker.pretrain.data.headline import headline_of
from dnachunker.pretrain.records.event_log import read_events

_KNOWS_NOTHING = math.log(16)  # nats of a model that gives each entry of the vocabulary the same probability
_NOISE = 0.1  # nats that a sound evaluation may lie above the best one before it


def checkpoint_to_export(run: Path, step: int | None = None) -> tuple[Path, str]:
    """The checkpoint of `step`, or the newest that is sound; its manifest is verified.

    Returns:
        The checkpoint, and a warning if the checkpoint of `step` is not sound or if newer ones are not.

    Raises:
        BadInput: there is no such checkpoint, none is sound, or a file does not match its sha256.
    """
    events = read_events(run)
    if step is not None:
        chosen = choose_checkpoint(run, step)
        found = doubt(events, step)
        return chosen, f"step {step} is exported as you ask, but {found}" if found else ""
    found = ""
    for checkpoint in reversed(complete_checkpoints(run)):
        wrong = doubt(events, step_of(checkpoint))
        if not wrong:
            verify_checkpoint(checkpoint)
            return checkpoint, f"step {step_of(checkpoint)} is exported, because {found}" if found else ""
        found = found or wrong
    if not found:
        choose_checkpoint(run)  # which says that there is none
    raise BadInput(
        f"{run}: no checkpoint is known to be sound: {found}. Continue the run until its next evaluation, or choose a "
        "checkpoint with --step"
    )


def doubt(events: list[dict[str, Any]], step: int) -> str:
    """Why the checkpoint after `step` steps may be bad; empty if it is sound.

    Args:
        events: of the run's event log, as `read_events` gives them.
    """
    losses = {e["steps_done"]: _loss(e) for e in events if e["event"] == "evaluation"}
    after = min((done for done in losses if done >= step), default=None)
    # the loss of step `step + 1` is the first that the checkpoint's own weights gave
    spikes = {e["steps_done"] for e in events if e["event"] == "guard" and e["kind"] == "spike"}
    if after != step and spikes & {step, step + 1}:  # an evaluation at `step` itself has measured the checkpoint
        return f"step {step} was saved on a loss spike"
    if after is None:
        return f"no evaluation followed step {step}"
    best = min([_KNOWS_NOTHING, *(loss for done, loss in losses.items() if done < after)])
    if not losses[after] <= best + _NOISE:
        return f"the evaluation at step {after}, which judges step {step}, gave {losses[after]:.2f} nats"
    return ""


def _loss(evaluation: dict[str, Any]) -> float:
    value = evaluation[f"{headline_of(evaluation).key}_loss"]
    return math.inf if value is None else float(value)  # the event log stores NaN and infinities as null

"""Finds the checkpoint that a run continues from, and loads it. Collective."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from dnachunker.foundations.failures import BadInput, BadInputOnAllRanks
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.engine.weight_average import AVERAGE

from .saving import discard_partials, newest_whole_checkpoint
from .state import RunState, read_state
from .stored_parts import WEIGHTS, StoredParts


def find_checkpoint(run: Path, rank: Rank) -> tuple[Path | None, list[str]]:
    """What `newest_whole_checkpoint` finds. Rank 0 reads and verifies for all ranks, which share its file system.

    Rank 0 also removes what interrupted saves have left.

    Raises:
        BadInputOnAllRanks: all checkpoints are damaged, or the newest whole one is of another format or holds another
            kind of file.
    """
    found: tuple[Path | None, list[str]] = (None, [])
    problem = ""
    if rank.is_main:
        discard_partials(run)
        try:
            found = newest_whole_checkpoint(run)
            if found[0]:
                read_state(found[0])  # first: an older format has files of another kind
                StoredParts(found[0])
        except BadInput as error:
            problem = str(error)
    found, problem = rank.from_main((found, problem))
    if problem:
        raise BadInputOnAllRanks(problem)
    return found


def load_checkpoint(engine: TrainingEngine, checkpoint: Path, state: RunState) -> None:
    """Load a verified checkpoint, which any number of ranks at any ZeRO stage has written; collective.

    Raises:
        BadInput: the checkpoint does not hold all values of a parameter.
    """
    engine.load(StoredParts(checkpoint).fill, steps_done=state.steps_done, updates=state.updates)


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights that a verified checkpoint is judged by: their average if its run keeps one; by name, in float32.

    Raises:
        BadInput: the checkpoint does not hold all values of a parameter.
    """
    weights = load_file(checkpoint / WEIGHTS)
    if read_state(checkpoint).identity["optimizer"].get("ema"):  # only then are the optimizer's files opened
        parts = StoredParts(checkpoint)
        for name, weight in weights.items():
            parts.fill(name, AVERAGE, 0, weight.view(-1))
    return weights

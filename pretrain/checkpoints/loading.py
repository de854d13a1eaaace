"""Finds the checkpoint that a run continues from, and loads it at the same or another number of ranks. Collective."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from dnachunker.foundations.failures import BadInput, BadInputOnAllRanks
from dnachunker.pretrain.engine.deepspeed_engine import WEIGHTS, TrainingEngine
from dnachunker.pretrain.engine.plain_states import require_plain
from dnachunker.pretrain.engine.ranks import Rank

from .resharding import write_universal
from .saving import newest_whole_checkpoint
from .state import RunState, read_state


def find_checkpoint(run: Path, rank: Rank) -> tuple[Path | None, list[str]]:
    """What `newest_whole_checkpoint` finds. Rank 0 reads and verifies for all ranks, which share its file system.

    Raises:
        BadInputOnAllRanks: all checkpoints are damaged, or the newest whole one is of another format or holds more than
            tensors and plain values.
    """
    found: tuple[Path | None, list[str]] = (None, [])
    problem = ""
    if rank.is_main:
        try:
            found = newest_whole_checkpoint(run)
            if found[0]:
                read_state(found[0])  # first: an older format has files of another kind
                require_plain(found[0])
        except BadInput as error:
            problem = str(error)
    found, problem = rank.from_main((found, problem))
    if problem:
        raise BadInputOnAllRanks(problem)
    return found


def needs_resharding(state: RunState | None, rank: Rank) -> bool:
    """Whether another number of ranks wrote the state; never at ZeRO stage 0, where each rank holds everything."""
    return state is not None and bool(state.zero_stage) and state.world_size != rank.world_size


def load_checkpoint(engine: TrainingEngine, checkpoint: Path, state: RunState, rank: Rank) -> None:
    """Restore a verified checkpoint, through its universal form if `needs_resharding`.

    Raises:
        BadInput: the engine counts other updates than the checkpoint.
    """
    if needs_resharding(state, rank):
        universal = checkpoint.with_name(f".{checkpoint.name}.universal")
        write_universal(checkpoint, universal, rank)
        engine.load(universal)
        rank.barrier()
        if rank.is_main:
            shutil.rmtree(universal)
    else:
        engine.load(checkpoint)
    if engine.updates != state.updates:
        raise BadInput(
            f"{checkpoint}: the engine has loaded {engine.updates} updates and the checkpoint says {state.updates}; "
            f"remove this checkpoint folder to use the one before it"
        )


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of a verified checkpoint, by name, in float32."""
    return load_file(checkpoint / WEIGHTS)

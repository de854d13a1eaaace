"""Finds the checkpoint a run continues from and loads it, at the same number of ranks or another. Collective."""

import shutil
from pathlib import Path

from dnachunker.foundations.failures import BadInput

from .checkpoint import newest_whole_checkpoint
from .distributed import Rank
from .engine import TrainingEngine
from .reshard import write_universal
from .run_state import RunState


def find_checkpoint(run: Path, rank: Rank) -> tuple[Path | None, list[str]]:
    """What `newest_whole_checkpoint` finds; rank 0 reads and verifies for all, who share its file system.

    Raises:
        BadInput: on every rank, when all checkpoints are damaged.
    """
    found: tuple[Path | None, list[str]] = (None, [])
    problem = ""
    if rank.is_main:
        try:
            found = newest_whole_checkpoint(run)
        except BadInput as error:
            problem = str(error)
    found, problem = rank.from_main((found, problem))
    if problem:
        raise BadInput(problem)
    return found


def needs_resharding(state: RunState | None, rank: Rank) -> bool:
    """Whether other ranks wrote the state than will load it; at stage 0 each holds everything anyway."""
    return state is not None and bool(state.zero_stage) and state.world_size != rank.world_size


def load_checkpoint(engine: TrainingEngine, checkpoint: Path, state: RunState, rank: Rank) -> None:
    """Restore a verified checkpoint, through its universal form where that is needed.

    Raises:
        BadInput: what was loaded is not what the checkpoint says it holds.
    """
    if needs_resharding(state, rank):
        universal = checkpoint.with_name(f".{checkpoint.name}.universal")
        if rank.is_main:
            write_universal(checkpoint, universal)
        rank.barrier()
        engine.load(universal)
        rank.barrier()
        if rank.is_main:
            shutil.rmtree(universal)
    else:
        engine.load(checkpoint)
    if engine.updates != state.updates:
        raise BadInput(
            f"{checkpoint}: the engine counts {engine.updates} updates where the checkpoint says {state.updates}; "
            f"remove this checkpoint folder to use the one before it"
        )

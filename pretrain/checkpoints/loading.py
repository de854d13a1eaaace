"""Finds the checkpoint that a run continues from, and loads it at the same or another number of ranks. Collective.

ZeRO saves each rank's slice of the optimizer states. DeepSpeed's universal format has one file for each parameter and
kind of state instead, which any number of ranks can slice again.
"""

import io
import shutil
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from deepspeed.checkpoint import ds_to_universal
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.engine.deepspeed_engine import ENGINE_STATE, TrainingEngine
from dnachunker.pretrain.engine.ranks import Rank

from .saving import newest_whole_checkpoint
from .state import RunState, read_state


def find_checkpoint(run: Path, rank: Rank) -> tuple[Path | None, list[str]]:
    """What `newest_whole_checkpoint` finds. Rank 0 reads and verifies for all ranks, which share its file system.

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
    """Whether another number of ranks wrote the state; never at ZeRO stage 0, where each rank holds everything."""
    return state is not None and bool(state.zero_stage) and state.world_size != rank.world_size


def load_checkpoint(engine: TrainingEngine, checkpoint: Path, state: RunState, rank: Rank) -> None:
    """Restore a verified checkpoint, through its universal form if `needs_resharding`.

    Raises:
        BadInput: the engine counts other updates than the checkpoint.
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
            f"{checkpoint}: the engine has loaded {engine.updates} updates and the checkpoint says {state.updates}; "
            f"remove this checkpoint folder to use the one before it"
        )


def write_universal(checkpoint: Path, folder: Path) -> None:
    """Write the universal form of a verified checkpoint's engine state under `folder`/engine."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = Namespace(
        input_folder=str(checkpoint / ENGINE_STATE),
        output_folder=str(folder / ENGINE_STATE),
        num_extract_workers=1,  # more would fork a process that already runs communication threads
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # tensor-parallel metadata, which these checkpoints do not have
    )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints every parameter
        ds_to_universal.main(arguments)


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of a verified checkpoint in fp32, gathered from the files of all ranks."""
    if read_state(checkpoint).zero_stage == 0:
        # the manifest has been verified: this run wrote the file
        path = checkpoint / ENGINE_STATE / "mp_rank_00_model_states.pt"
        states = torch.load(path, map_location="cpu", weights_only=False)
        return {name: tensor.float() for name, tensor in states["module"].items()}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # DeepSpeed prints every file
        return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=ENGINE_STATE)

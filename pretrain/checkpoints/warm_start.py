"""Copies the weights of an export or of another run into the model of a new run. Collective."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from dnachunker.foundations.failures import BadInput, BadInputOnAllRanks
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.settings.learning import InitSettings

from .loading import read_weights
from .parents import ParentModel, is_reset, shapes_of, weight_files
from .saving import newest_whole_checkpoint
from .state import Parent


def start_from_parent(
    model: nn.Module, network: DNAChunkerConfig, settings: InitSettings, rank: Rank
) -> tuple[Parent | None, list[str]]:
    """Replace the new model's weights by the parent's, but for the parts in `settings.reset`.

    Rank 0 reads the parent and sends each parameter to the others, which share no file with it.

    Args:
        model: on the CPU, not yet given to DeepSpeed.
        network: its configuration.

    Returns:
        What a checkpoint stores about the parent, and lines for the user; (None, []) without `init.model`.

    Raises:
        BadInputOnAllRanks: the parent is not readable, or does not fit.
    """
    if settings.model is None:
        return None, []
    weights: Mapping[str, torch.Tensor] = {}
    found: tuple[Parent | None, list[str]] = (None, [])
    problem = ""
    if rank.is_main:
        try:
            weights, found = _read(Path(settings.model), model, network, settings)
        except BadInput as error:
            problem = str(error)
    found, problem = rank.from_main((found, problem))
    if problem:
        raise BadInputOnAllRanks(problem)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not is_reset(name, settings.reset):
                sent = weights[name] if rank.is_main else torch.empty(parameter.shape)
                parameter.copy_(rank.tensor_from_main(sent))
    return found


def fingerprint_of(weights: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and float32 values: the same for a checkpoint of any ZeRO stage and its export."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(
    folder: Path, model: nn.Module, network: DNAChunkerConfig, settings: InitSettings
) -> tuple[Mapping[str, torch.Tensor], tuple[Parent, list[str]]]:
    source = ParentModel.open(folder)
    try:
        weights = _run_weights(folder) if source.is_run else _export_weights(folder)
    except (OSError, RuntimeError) as error:
        raise BadInput(f"{folder} (init.model): its weights are not readable: {error}") from error
    source.require_fits(network, shapes_of(dict(model.named_parameters())), settings.reset)
    parent = Parent(
        model=str(settings.model), fingerprint=fingerprint_of(weights), steps_done=source.steps_done,
        reset=settings.reset,
    )  # fmt: skip
    changed = source.other_settings(network)
    lines = [f"started from the weights of {folder} (fingerprint {parent.fingerprint[:12]})"]
    lines += [f"warning: other settings than those of {folder}: {', '.join(changed)}"] if changed else []
    return weights, (parent, lines)


def _run_weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint, _ = newest_whole_checkpoint(run)
    if checkpoint is None:
        raise BadInput(f"{run} (init.model): this run has no complete checkpoint any more")
    return read_weights(checkpoint)


def _export_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for path in weight_files(folder) for name, tensor in load_file(path).items()}

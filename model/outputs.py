"""What the models return: fields whose first dimension is the batch, and views of them by stage.

Generic code (pipelines, Trainer, DataParallel) indexes and concatenates fields by batch row. Hence stages are stacked
in dimension 1, and the only scalars are losses, which exist with labels alone.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .hierarchy import HierarchyOutput, spread_to_bases
from .packing import unpack


def _by_stage(field: str) -> property:
    """A view of a field with S stages in dimension 1: a tuple of S tensors."""

    def stages(output: ModelOutput) -> tuple[Tensor, ...] | None:
        stacked: Tensor | None = getattr(output, field)
        return None if stacked is None else stacked.unbind(1)

    return property(stages, doc=f"`{field}` as a tuple with one tensor per stage, outermost first.")


@dataclass
class ChunkFields(ModelOutput):
    """What every output says about chunks. S is the number of stages, outermost first.

    Each `stage_NAME` is also there as NAME, a tuple with one (B, L) or (B,) tensor per stage: `boundaries[0]` is
    `stage_boundaries[:, 0]`.

    Attributes:
        stage_boundaries: (B, S, L) bool, True at the first base of each chunk of that stage.
        stage_boundary_probabilities: (B, S, L) float32, p where the router ran: at every base for stage 0, for a
            later stage at the first base of each chunk of the stage before; 0 elsewhere and at pads.
        stage_chunk_ids: (B, S, L) int64, the index within its sequence of the chunk that holds each base; -1 at pads.
        stage_chunk_counts: (B, S) int64, chunks per sequence.
        stage_natural_rates: (B, S) float32, share of a stage's positions at which the router itself starts a chunk.
        stage_forced_counts: (B, S) int64, chunks that start only because of mask protection.
        hidden_states: encoder outputs, trunk output, decoder outputs, (B, L, D) each, chunks spread to their bases.
    """

    stage_boundaries: Tensor | None = None
    stage_boundary_probabilities: Tensor | None = None
    stage_chunk_ids: Tensor | None = None
    stage_chunk_counts: Tensor | None = None
    stage_natural_rates: Tensor | None = None
    stage_forced_counts: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    boundaries = _by_stage("stage_boundaries")
    boundary_probabilities = _by_stage("stage_boundary_probabilities")
    chunk_ids = _by_stage("stage_chunk_ids")
    chunk_counts = _by_stage("stage_chunk_counts")
    natural_rates = _by_stage("stage_natural_rates")
    forced_counts = _by_stage("stage_forced_counts")


# Fields of the last base class come first, so that a plain tuple begins with the loss, as everywhere in Hugging Face.


@dataclass
class _Hidden(ModelOutput):
    last_hidden_state: Tensor | None = None


@dataclass
class _Scores(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None


@dataclass
class _MaskedLMScores(_Scores):
    mlm_loss: Tensor | None = None
    ratio_loss: Tensor | None = None


@dataclass
class _CausalLMScores(_Scores):
    next_base_loss: Tensor | None = None
    ratio_loss: Tensor | None = None


@dataclass
class DNAChunkerOutput(ChunkFields, _Hidden):
    """Output of `DNAChunkerModel`: `last_hidden_state` (B, L, D), 0 at pads."""


@dataclass
class DNAChunkerMaskedLMOutput(ChunkFields, _MaskedLMScores):
    """Output of `DNAChunkerForMaskedLM`.

    Attributes:
        loss: mlm_loss + ratio_loss_weight * ratio_loss; None without labels.
        logits: (B, L, V) float32, 0 at pads; None if only labelled positions were predicted.
        mlm_loss: weighted cross-entropy; None without labels.
        ratio_loss: unweighted, summed over stages, averaged over sequences; None without labels.
    """


@dataclass
class DNAChunkerCausalLMOutput(ChunkFields, _CausalLMScores):
    """Output of `DNAChunkerForCausalLM`.

    Attributes:
        loss: next_base_loss + ratio_loss_weight * ratio_loss; None without labels.
        logits: (B, L, V) float32, at each position for the token after it; 0 at pads.
        next_base_loss: weighted cross-entropy; None without labels.
        ratio_loss: unweighted, summed over stages, averaged over sequences; None without labels.
    """


@dataclass
class DNAChunkerClassifierOutput(ChunkFields, _Scores):
    """Output of the classifiers: float32 `logits`, (B, num_labels) of a sequence or (B, L, num_labels) of its bases, 0
    at pads; `loss`, None without labels.
    """


def describe(found: HierarchyOutput, index: Tensor, shape: tuple[int, int]) -> dict[str, Any]:
    """The chunk fields of an output, spread to (B, L).

    Args:
        index: (T,) int64, the index of each packed base in the flattened (B*L,) input; B*L for filler, and for the
            bases of the other strands.
        shape: (B, L).
    """
    fields: dict[str, list[Tensor]] = defaultdict(list)
    nowhere = shape[0] * shape[1]
    element = index  # where each element of the stage starts in the flattened input
    for level, stage in enumerate(found.stages):
        packing, chunks = stage.packing, stage.chunks
        fields["boundary_probabilities"].append(unpack(stage.probability.detach(), element, shape))
        fields["boundaries"].append(unpack(stage.boundary, element, shape, False))
        fields["chunk_ids"].append(unpack(spread_to_bases(stage.number, found.stages[:level]), index, shape, -1))
        fields["chunk_counts"].append(chunks.real_lengths[: shape[0]])
        fields["natural_rates"].append(packing.mean(stage.natural.float())[: shape[0]])
        only_forced = (stage.boundary & ~stage.natural).float()
        fields["forced_counts"].append(packing.sum(only_forced)[: shape[0]].round().to(torch.int64))
        element = element[stage.starts]
        if chunks.filler:
            element = torch.where(chunks.real, element, nowhere)
    return {
        **{f"stage_{name}": torch.stack(values, dim=1) for name, values in fields.items()},
        "hidden_states": tuple(unpack(level, index, shape) for level in found.levels) or None,
    }

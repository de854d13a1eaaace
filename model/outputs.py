"""What the models return. Everything per base has shape (B, L), so that batches can be gathered and concatenated."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .hierarchy import chunk_of_base
from .packing import unpack
from .routing import Segmentation


@dataclass
class ChunkFields(ModelOutput):
    """What every output says about chunks; tuples have one entry per stage, outermost first.

    Attributes:
        boundaries: (B, L) bool, True at the first base of each chunk of that stage.
        boundary_probabilities: (B, L) float32, p where the router ran: at every base for stage 0, for a later
            stage at the first base of each chunk of the stage before; 0 elsewhere and at pads.
        chunk_ids: (B, L) int64, the index within its sequence of the chunk that holds each base; -1 at pads.
        chunk_counts: (B,) int64, chunks per sequence.
        natural_rates: (B,) float32, share of the stage's positions at which the router itself starts a chunk.
        forced_counts: (B,) int64, chunks that start only because of mask protection.
        hidden_states: encoder outputs, trunk output, decoder outputs, (B, L, D) each, chunks spread to their bases.
    """

    boundaries: tuple[Tensor, ...] | None = None
    boundary_probabilities: tuple[Tensor, ...] | None = None
    chunk_ids: tuple[Tensor, ...] | None = None
    chunk_counts: tuple[Tensor, ...] | None = None
    natural_rates: tuple[Tensor, ...] | None = None
    forced_counts: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


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
        ratio_loss: unweighted, summed over stages, averaged over sequences.
    """


@dataclass
class DNAChunkerCausalLMOutput(ChunkFields, _CausalLMScores):
    """Output of `DNAChunkerForCausalLM`.

    Attributes:
        loss: next_base_loss + ratio_loss_weight * ratio_loss; None without labels.
        logits: (B, L, V) float32, at each position for the token after it; 0 at pads.
        next_base_loss: weighted cross-entropy; None without labels.
        ratio_loss: unweighted, summed over stages, averaged over sequences.
    """


@dataclass
class DNAChunkerClassifierOutput(ChunkFields, _Scores):
    """Output of `DNAChunkerForSequenceClassification`: `logits` (B, num_labels) float32; loss, None without labels."""


def describe_stages(
    stages: Sequence[Segmentation], index: Tensor, shape: tuple[int, int]
) -> dict[str, tuple[Tensor, ...]]:
    """The chunk fields of an output, spread to (B, L).

    Args:
        index: (T,) int64, the index of each packed base in the flattened (B*L,) input; B*L for filler, and for the
            bases of the other strands.
    """
    fields: dict[str, list[Tensor]] = defaultdict(list)
    nowhere = shape[0] * shape[1]
    element = index  # where each element of the stage starts in the flattened input
    for stage, chunk in zip(stages, chunk_of_base(stages), strict=True):
        packing, chunks = stage.packing, stage.chunks
        fields["boundary_probabilities"].append(unpack(stage.probability.detach(), element, shape))
        fields["boundaries"].append(unpack(stage.boundary, element, shape, False))
        sequence = stages[0].packing.sequence.clamp_max(len(chunks.starts) - 1)
        fields["chunk_ids"].append(unpack(chunk - chunks.starts[sequence], index, shape, -1))
        fields["chunk_counts"].append(chunks.real_lengths[: shape[0]])
        fields["natural_rates"].append(packing.mean(stage.natural.float())[: shape[0]])
        only_forced = (stage.boundary & ~stage.natural).float()
        fields["forced_counts"].append(packing.sum(only_forced)[: shape[0]].round().to(torch.int64))
        element = element[stage.starts]
        if chunks.filler:
            element = torch.where(chunks.real, element, nowhere)
    return {name: tuple(values) for name, values in fields.items()}

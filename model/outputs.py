"""What the models return. Everything per base has shape (B, L), so that batches can be gathered and concatenated."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .hierarchy import chunk_of_base
from .packing import unpack
from .routing import Segmentation


@dataclass
class DNAChunkerOutput(ModelOutput):
    """Of `DNAChunkerModel`, and the part all outputs share; tuples have one entry per stage, outermost first.

    Attributes:
        last_hidden_state: (B, L, D), 0 at pads.
        boundaries: (B, L) bool, True at the first base of each chunk of that stage.
        boundary_probabilities: (B, L) float32, p where the router was asked: at every base for stage 0, at the first
            base of each chunk of the stage before for later ones; 0 elsewhere and at pads.
        chunk_ids: (B, L) int64, index in its sequence of the chunk each base lies in; -1 at pads.
        chunk_counts: (B,) int64, chunks per sequence.
        natural_rates: (B,) float32, share of the stage's positions at which the router itself starts a chunk.
        forced_counts: (B,) int64, chunks that start only because of mask protection.
        hidden_states: encoder outputs, trunk output, decoder outputs, (B, L, D) each, chunks spread to their bases.
    """

    last_hidden_state: Tensor | None = None
    boundaries: tuple[Tensor, ...] | None = None
    boundary_probabilities: tuple[Tensor, ...] | None = None
    chunk_ids: tuple[Tensor, ...] | None = None
    chunk_counts: tuple[Tensor, ...] | None = None
    natural_rates: tuple[Tensor, ...] | None = None
    forced_counts: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class DNAChunkerCausalLMOutput(ModelOutput):
    """Of `DNAChunkerForCausalLM`; chunk fields as in `DNAChunkerOutput`.

    Attributes:
        loss: next_base_loss + ratio_loss_weight * ratio_loss; None without labels.
        logits: (B, L, V) float32, at each position those of the token after it; 0 at pads.
        next_base_loss: weighted cross-entropy; None without labels.
        ratio_loss: unweighted, summed over stages, averaged over sequences.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    next_base_loss: Tensor | None = None
    ratio_loss: Tensor | None = None
    boundaries: tuple[Tensor, ...] | None = None
    boundary_probabilities: tuple[Tensor, ...] | None = None
    chunk_ids: tuple[Tensor, ...] | None = None
    chunk_counts: tuple[Tensor, ...] | None = None
    natural_rates: tuple[Tensor, ...] | None = None
    forced_counts: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class DNAChunkerMaskedLMOutput(ModelOutput):
    """Of `DNAChunkerForMaskedLM`; chunk fields as in `DNAChunkerOutput`.

    Attributes:
        loss: mlm_loss + ratio_loss_weight * ratio_loss; None without labels.
        logits: (B, L, V) float32, 0 at pads; None where only labelled positions were predicted.
        mlm_loss: weighted cross-entropy; None without labels.
        ratio_loss: unweighted, summed over stages, averaged over sequences.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    mlm_loss: Tensor | None = None
    ratio_loss: Tensor | None = None
    boundaries: tuple[Tensor, ...] | None = None
    boundary_probabilities: tuple[Tensor, ...] | None = None
    chunk_ids: tuple[Tensor, ...] | None = None
    chunk_counts: tuple[Tensor, ...] | None = None
    natural_rates: tuple[Tensor, ...] | None = None
    forced_counts: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class DNAChunkerClassifierOutput(ModelOutput):
    """Of `DNAChunkerForSequenceClassification`: logits (B, num_labels) float32, the rest as in `DNAChunkerOutput`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    boundaries: tuple[Tensor, ...] | None = None
    boundary_probabilities: tuple[Tensor, ...] | None = None
    chunk_ids: tuple[Tensor, ...] | None = None
    chunk_counts: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def describe_stages(
    stages: Sequence[Segmentation], index: Tensor, shape: tuple[int, int]
) -> dict[str, tuple[Tensor, ...]]:
    """The chunk fields of an output, spread to (B, L).

    Args:
        index: (T,) int64, where each packed base lies in the flattened (B*L,) input; B*L for filler, and for the bases
            of sequences after the B-th.
    """
    fields: dict[str, list[Tensor]] = {
        name: []
        for name in (
            "boundaries",
            "boundary_probabilities",
            "chunk_ids",
            "chunk_counts",
            "natural_rates",
            "forced_counts",
        )
    }
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

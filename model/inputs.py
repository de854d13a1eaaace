"""What `forward` accepts: ids or embeddings, masks, boundaries, and the arguments generic code hands to every model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .configuration_dnachunker import DNAChunkerConfig
from .network_fields import split_refusal

_REFUSED = {
    "token_type_ids": "there is one type of token: leave the argument out, or pass zeros",
    "position_ids": "positions count the bases of a sequence: leave the argument out, or pass consecutive numbers",
    "output_attentions": "attention over chunks keeps no maps: leave the argument out",
}


def check_inputs(
    config: DNAChunkerConfig,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    boundaries: Sequence[Tensor] | None,
    chunk_capacity: Sequence[float] | None,
) -> Tensor:
    """Check the inputs of a pass; all as `DNAChunkerModel.forward`.

    Returns:
        (B, L) bool, True where there is a base.

    Raises:
        ValueError: neither or both of input_ids and inputs_embeds, a wrong shape, embeddings for a network that must
            know the letters, or a chunk_capacity that is not a number in (0, 1] for each stage.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give either input_ids or inputs_embeds, not both and not neither")
    if input_ids is not None:
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must be (B, L); they are {tuple(input_ids.shape)}")
        shape = input_ids.shape
    else:
        assert inputs_embeds is not None  # by the first check
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != config.width:
            raise ValueError(f"inputs_embeds must be (B, L, {config.width}); they are {tuple(inputs_embeds.shape)}")
        if config.strand_symmetry or (config.segmentation is not None and boundaries is None):
            raise ValueError(
                "this model needs input_ids: it computes the other strand, or a segmentation, from letters"
            )
        shape = inputs_embeds.shape[:2]
    if attention_mask is not None and attention_mask.shape != shape:
        raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, the inputs are {tuple(shape)}")
    if boundaries is not None and (
        len(boundaries) != config.stages or any(stage.shape != shape for stage in boundaries)
    ):
        raise ValueError(f"boundaries must be {config.stages} bool tensors of shape (B, L)")
    if chunk_capacity is not None and (
        len(chunk_capacity) != config.stages or any(not 0 < share <= 1 for share in chunk_capacity)
    ):
        raise ValueError(f"chunk_capacity is {chunk_capacity}; it needs a number in (0, 1] per stage, or None")
    if attention_mask is not None:
        return attention_mask != 0
    if input_ids is not None:
        return input_ids != config.pad_token_id
    assert inputs_embeds is not None  # by the first check
    return inputs_embeds.new_ones(shape, dtype=torch.bool)


def check_split(config: DNAChunkerConfig, chunk_capacity: Sequence[float] | None) -> None:
    """Refuse what cannot run on windows that are split over ranks.

    Raises:
        ValueError: a network that is not made for it, or a chunk_capacity.
    """
    if reason := split_refusal(config, segmentation=(config.segmentation or {}).get("kind", "")):
        raise ValueError(f"windows cannot be split over ranks: {reason}")
    if chunk_capacity is not None:
        raise ValueError("windows cannot be split over ranks: chunk_capacity is for windows on one rank; leave it out")


def check_generic(config: DNAChunkerConfig, generic: Mapping[str, Any], present: Tensor) -> None:
    """Accept arguments of generic code that change nothing here, and refuse those that would.

    Accepted are None and False, `token_type_ids` of zeros, and `position_ids` that count up by one from base to base.

    Args:
        generic: arguments by name.
        present: (B, L) bool, True where there is a base.

    Raises:
        ValueError: a value that the network cannot use.
        TypeError: an argument that the network does not have.
    """
    for name, value in {"output_attentions": config.output_attentions, **generic}.items():
        if value is None or value is False:
            continue
        if name == "token_type_ids" and not value.any():
            continue
        if name == "position_ids":
            if value.shape[-1] != present.shape[-1]:
                raise ValueError(f"position_ids are {tuple(value.shape)}, for {tuple(present.shape)} bases")
            neighbours = present[:, 1:] & present[:, :-1]
            if ((value.diff(dim=-1) == 1) | ~neighbours).all():
                continue
        if name not in _REFUSED:
            raise TypeError(f"forward() got an unexpected keyword argument {name!r}")
        raise ValueError(f"{name}: {_REFUSED[name]}")

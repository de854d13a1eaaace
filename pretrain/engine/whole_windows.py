"""A network whose windows are split over ranks, called as if each rank had them whole."""

from typing import Any

import torch
from torch import nn

from dnachunker.model.context_group import ContextGroup

_DIMENSIONS = {"logits": 1, "stage_boundaries": 2, "stage_boundary_probabilities": 2, "stage_chunk_ids": 2}  # of bases
_COUNTS = ("stage_chunk_counts", "stage_forced_counts")


class WholeWindows(nn.Module):
    """Each rank of a group passes the same whole windows, and gets the whole output; without gradients and losses."""

    def __init__(self, network: nn.Module, group: ContextGroup) -> None:
        super().__init__()
        self.network = network
        self._group = group

    @torch.no_grad()
    def forward(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """Inputs (B, L) -> the output of the model on them; collective."""
        length, group = input_ids.shape[1], self._group
        columns = group.columns(length)
        output = self.network(input_ids=input_ids[:, columns], attention_mask=attention_mask[:, columns])
        whole = {name: group.join(output[name], length, dim) for name, dim in _DIMENSIONS.items()}
        counts = {name: group.gather(output[name]).sum(0) for name in _COUNTS}
        return type(output)(**whole, **counts, stage_natural_rates=output.stage_natural_rates)

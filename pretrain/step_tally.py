"""Adds up one optimizer step over micro-batches and ranks."""

from typing import Any

import torch

from .distributed import Rank
from .masking import Batch

_STAGES = ("stage0", "stage1")
_LOSSES = ("loss", "mlm_loss", "ratio_loss")


class StepTally:
    """Sums of what each micro-batch contributes; losses arrive normalised over the global batch."""

    def __init__(self) -> None:
        self._sums: torch.Tensor | None = None

    def add(self, batch: Batch, output: Any) -> None:
        """Count one micro-batch; stays on the device."""
        # per stage: chunks, those only mask protection starts, and the routers' own rates summed over sequences
        counts = (*output.chunk_counts, *output.forced_counts, *output.natural_rates)
        values = [
            *(getattr(output, name) for name in _LOSSES),
            batch.attention_mask.sum(), batch.input_ids.new_tensor(len(batch.input_ids)),
            *(stage.sum() for stage in counts),
        ]  # fmt: skip
        row = torch.stack([value.detach().double() for value in values])
        self._sums = row if self._sums is None else self._sums + row

    def over_all(self, rank: Rank) -> dict[str, Any]:
        """The step's metrics over all ranks (collective).

        Losses; `bases`; and by stage `compression` (chunks per position of the masked input), `forced_share` (of
        the chunks, those only mask protection starts) and `natural_rate` (positions where the router itself does).
        """
        assert self._sums is not None, "no micro-batch was added"
        total = rank.sum_tensor(self._sums).tolist()
        losses, (bases, sequences), per_stage = total[:3], total[3:5], total[5:]
        chunks, forced, natural = per_stage[0:2], per_stage[2:4], per_stage[4:6]
        positions = [bases, chunks[0]]
        return {
            **dict(zip(_LOSSES, losses, strict=True)),
            "bases": bases,
            "compression": {stage: chunks[i] / positions[i] for i, stage in enumerate(_STAGES)},
            "forced_share": {stage: forced[i] / chunks[i] for i, stage in enumerate(_STAGES)},
            "natural_rate": {stage: natural[i] / sequences for i, stage in enumerate(_STAGES)},
        }

"""Adds up one optimizer step over micro-batches and ranks."""

from typing import Any

import numpy as np
import torch

from dnachunker.pretrain.data.masking import Batch
from dnachunker.pretrain.engine.ranks import Rank

_STAGES = ("stage0", "stage1")
_LOSSES = ("loss", "mlm_loss", "next_base_loss", "ratio_loss")  # an output has three of them
_LONGEST = 64  # bases; longer chunks count as this long in the percentiles
_PERCENTILES = (10, 50, 90)


class StepTally:
    """Sums of what each micro-batch contributes; losses arrive normalised over the global batch."""

    def __init__(self) -> None:
        self._sums: torch.Tensor | None = None
        self._losses: list[str] = []
        self._most: torch.Tensor | None = None  # chunks per place of a base, by stage, in the fullest micro-batch

    def add(self, batch: Batch, output: Any) -> None:
        """Count one micro-batch; stays on the device."""
        # per stage: chunks, those only mask protection starts, and the routers' own rates summed over sequences
        self._losses = [name for name in _LOSSES if name in output]
        counts = (*output.chunk_counts, *output.forced_counts, *output.natural_rates)
        values = [
            *(output[name] for name in self._losses),
            batch.attention_mask.sum(), batch.input_ids.new_tensor(len(batch.input_ids)),
            *(stage.sum() for stage in counts),
        ]  # fmt: skip
        lengths = [_length_histogram(ids) for ids in output.chunk_ids]
        row = torch.cat([torch.stack([value.detach().double() for value in values]), *lengths])
        self._sums = row if self._sums is None else self._sums + row
        share = torch.stack([stage.sum() for stage in output.chunk_counts]).double() / batch.input_ids.numel()
        self._most = share if self._most is None else torch.maximum(self._most, share)

    def over_all(self, rank: Rank) -> dict[str, Any]:
        """The step's metrics over all ranks (collective).

        Losses; `bases`; and by stage `compression` (chunks per position of the masked input), `forced_share` (of
        the chunks, those only mask protection starts), `natural_rate` (positions where the router itself does),
        `chunk_length` (percentiles in bases, 64 standing for longer ones too) and `most_chunks` (per base, pads
        included, in the micro-batch of any rank that has most).
        """
        assert self._sums is not None, "no micro-batch was added"
        assert self._most is not None
        most = self._sums.new_zeros(rank.world_size, len(_STAGES))
        most[rank.rank] = self._most  # each rank's own row: their sum over ranks is the rows of all
        total = rank.sum_tensor(torch.cat((self._sums, most.flatten()))).tolist()
        most_chunks = np.array(total[len(self._sums) :]).reshape(-1, len(_STAGES)).max(0).tolist()
        total = total[: len(self._sums)]
        losses, (bases, sequences), per_stage = total[:3], total[3:5], total[5:]
        chunks, forced, natural = per_stage[0:2], per_stage[2:4], per_stage[4:6]
        histograms = np.array(per_stage[6:]).reshape(len(_STAGES), _LONGEST + 1)
        positions = [bases, chunks[0]]
        return {
            **dict(zip(self._losses, losses, strict=True)),
            "bases": bases,
            "compression": {stage: chunks[i] / positions[i] for i, stage in enumerate(_STAGES)},
            "forced_share": {stage: forced[i] / chunks[i] for i, stage in enumerate(_STAGES)},
            "natural_rate": {stage: natural[i] / sequences for i, stage in enumerate(_STAGES)},
            "chunk_length": {stage: _percentiles(histograms[i]) for i, stage in enumerate(_STAGES)},
            "most_chunks": dict(zip(_STAGES, most_chunks, strict=True)),
        }


def _length_histogram(chunk_ids: torch.Tensor) -> torch.Tensor:
    """(65,) float64: how many chunks are 0, 1, ... bases long, from (B, L) chunk indices; does not sync the device."""
    rows, length = chunk_ids.shape
    first = torch.arange(rows, device=chunk_ids.device)[:, None] * length
    valid = chunk_ids >= 0
    one = valid.long().flatten()
    lengths = torch.zeros(rows * length, dtype=torch.long, device=chunk_ids.device)
    lengths.scatter_add_(0, (chunk_ids.clamp(min=0) + first).flatten(), one)
    histogram = torch.zeros(_LONGEST + 1, dtype=torch.double, device=chunk_ids.device)
    return histogram.scatter_add_(0, lengths.clamp(max=_LONGEST), (lengths > 0).double())


def _percentiles(histogram: Any) -> dict[str, float]:
    reached = np.cumsum(histogram)
    wanted = [reached[-1] * share / 100 for share in _PERCENTILES]
    return {f"p{p}": float(np.searchsorted(reached, w)) for p, w in zip(_PERCENTILES, wanted, strict=True)}

"""Step metrics: what one optimizer step measured, added up over its micro-batches and over all ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch

from dnachunker.model.context_group import ContextGroup
from dnachunker.pretrain.data.headline import by_stage
from dnachunker.pretrain.data.masking import Batch
from dnachunker.pretrain.engine.ranks import Rank

_LOSSES = ("loss", "mlm_loss", "next_base_loss", "ratio_loss")  # an output has three of them
_LONGEST = 64  # bases; longer chunks count as this long in the percentiles


class ChunkLengths(NamedTuple):
    """Percentiles of the lengths of a stage's chunks, in bases; 64 stands for longer ones too."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class StepMetrics:
    """One step over all ranks. Of the sequences as the model read them, masks included; tuples have a value per stage.

    Attributes:
        losses: by name, normalised over the global batch.
        bases: without pads.
        compression: chunks per position of the stage.
        forced_share: of the chunks, those that start only because of mask protection.
        natural_rate: share of positions where the router itself starts a chunk.
        chunk_length: in bases.
        most_chunks: chunks per base, pads included, of the micro-batch of any rank that has most.
        of_ranks: of each rank the row it handed in; not part of a `step` event.
    """

    losses: Mapping[str, float]
    bases: float
    compression: tuple[float, ...]
    forced_share: tuple[float, ...]
    natural_rate: tuple[float, ...]
    chunk_length: tuple[ChunkLengths, ...]
    most_chunks: tuple[float, ...]
    of_ranks: list[list[float]]

    @property
    def loss(self) -> float:
        """The loss that was minimised."""
        return self.losses["loss"]

    def as_event(self) -> dict[str, Any]:
        """What a `step` event says of these metrics."""
        return {
            **self.losses,
            "bases": self.bases,
            "compression": by_stage(self.compression),
            "forced_share": by_stage(self.forced_share),
            "natural_rate": by_stage(self.natural_rate),
            "chunk_length": by_stage(lengths._asdict() for lengths in self.chunk_length),
            "most_chunks": by_stage(self.most_chunks),
        }


class StepSums:
    """Sums of what each micro-batch contributes, in one tensor on the device, for any number of stages."""

    def __init__(self, context: ContextGroup | None = None, seq_len: int = 0) -> None:
        """
        Args:
            context: the ranks that share each window of `seq_len` bases, if there are any.
        """
        self._context, self._seq_len = context, seq_len
        self._sums: torch.Tensor | None = None  # (K,) float64
        self._parts: dict[str, slice] = {}  # of `_sums`
        self._losses: list[str] = []
        self._most: torch.Tensor | None = None  # (stages,) chunks per base in the fullest micro-batch

    def add(self, batch: Batch, output: Any) -> None:
        """Count one micro-batch; does not wait for the device; collective in a context group.

        Args:
            output: of the model; its losses are normalised over the global batch.
        """
        self._losses = [name for name in _LOSSES if name in output]
        numbers: dict[str, Sequence[torch.Tensor]] = {
            "losses": [output[name] for name in self._losses],
            "bases": [batch.attention_mask.sum()],
            "sequences": [batch.input_ids.new_tensor(len(batch.input_ids))],
            "chunks": [stage.sum() for stage in output.chunk_counts],
            "forced": [stage.sum() for stage in output.forced_counts],
            "natural": [stage.sum() for stage in output.natural_rates],  # each sequence's rate
        }
        lengths = [_length_histogram(ids) for ids in self._whole(output.stage_chunk_ids).unbind(1)]
        flat = torch.stack([number.detach().double() for part in numbers.values() for number in part])
        row = torch.cat([flat, *lengths])
        self._parts = _slices({name: len(part) for name, part in numbers.items()} | {"lengths": len(row) - len(flat)})
        self._sums = row if self._sums is None else self._sums + row
        share = torch.stack([stage.sum() for stage in output.chunk_counts]).double() / max(1, batch.input_ids.numel())
        self._most = share if self._most is None else torch.maximum(self._most, share)

    def _whole(self, chunk_ids: torch.Tensor) -> torch.Tensor:
        """(B, S, l) -> (B, S, L): of whole windows, for a chunk may begin on one rank and end on another."""
        if self._context is None:
            return chunk_ids
        whole = self._context.join(chunk_ids, self._seq_len, 2)
        return whole if self._context.rank == 0 else torch.full_like(whole, -1)  # each chunk counts once

    def over_all(self, rank: Rank, row: Sequence[float] = ()) -> StepMetrics:
        """The step's metrics over all ranks; collective, and waits for the device once.

        Args:
            row: numbers of this rank that all ranks get to know; of equal length on all.
        """
        assert self._sums is not None, "no micro-batch was added"
        assert self._most is not None
        stages = len(self._most)
        own = torch.cat((self._most, self._most.new_tensor(row)))
        rows = self._sums.new_zeros(rank.world_size, len(own))
        rows[rank.rank] = own  # each rank fills its own row, so that the sum over ranks has the rows of all
        flat = rank.sum_tensor(torch.cat((self._sums, rows.flatten()))).tolist()
        total = {name: flat[part] for name, part in self._parts.items()}
        told = np.array(flat[len(self._sums) :]).reshape(rank.world_size, -1)
        (bases,), (sequences,), chunks = total["bases"], total["sequences"], total["chunks"]
        return StepMetrics(
            losses=dict(zip(self._losses, total["losses"], strict=True)),
            bases=bases,
            compression=tuple(inner / outer for inner, outer in zip(chunks, [bases, *chunks[:-1]], strict=True)),
            forced_share=tuple(forced / count for forced, count in zip(total["forced"], chunks, strict=True)),
            natural_rate=tuple(rates / sequences for rates in total["natural"]),
            chunk_length=tuple(_percentiles(counts) for counts in np.array(total["lengths"]).reshape(stages, -1)),
            most_chunks=tuple(told[:, :stages].max(0).tolist()),
            of_ranks=told[:, stages:].tolist(),
        )


def _slices(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Where each part lies when parts of these sizes stand one after the other."""
    return {name: slice(end - sizes[name], end) for name, end in zip(sizes, accumulate(sizes.values()), strict=True)}


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


def _percentiles(histogram: Any) -> ChunkLengths:
    reached = np.cumsum(histogram)
    return ChunkLengths(*(float(np.searchsorted(reached, reached[-1] * percent / 100)) for percent in (10, 50, 90)))

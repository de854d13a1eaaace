"""BERT corruption of DNA windows as a pure function of each window's key.

Paper: 15 % of the A/C/G/T positions are selected; of these 80 % become [MASK], 10 % a random base, 10 % stay.
N, pads and special tokens are never selected. Soft-masked (repeat) bases count less in the loss.

With `span` above 1 whole spans are selected, and all bases of a span are treated alike, as in SpanBERT (arXiv
1907.10529): a kept base inside a masked span would break the span in two. Spans tile each window from an offset of its
own, and each span is selected with the same probability, so every base is selected as often as without spans.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch

from dnachunker.dataprep.packed_codes import PACKED_REPEAT_BIT
from dnachunker.model.alphabet import CODE_N, CODE_PAD, FIRST_BASE_ID, MASK_ID, PAD_ID
from dnachunker.pretrain.order.counter_random import hash_at, hash_positions

from .masking_loops import corrupt_rows

IGNORED_LABEL = -100
_CODE_BITS = PACKED_REPEAT_BIT - 1


@dataclass(frozen=True)
class MaskingRates:
    """Shares in [0, 1]; `mask` and `random` are shares of the selected positions. `span` in bases."""

    select: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    repeat_weight: float = 0.1
    span: int = 1

    @property
    def thresholds(self) -> tuple[int, int, int]:
        """Limits for a 31-bit word: below the first a base is selected, below the second masked, else below the third
        replaced by a random base.
        """
        shares = (1.0, self.mask, self.mask + self.random)
        below_select, below_mask, below_random = (round(self.select * share * 2**31) for share in shares)
        return below_select, below_mask, below_random

    def most_selected(self, positions: int) -> float:
        """An upper bound of the selected share of so many positions: the mean and eight standard deviations."""
        share = self.select + 8 * math.sqrt(self.select * (1 - self.select) * self.span / positions)
        return min(1.0, max(share, 1 / positions))


@dataclass(frozen=True)
class Batch:
    """Windows ready for the model. B windows, L positions, all on one device."""

    input_ids: torch.Tensor  # (B, L) int64, corrupted
    attention_mask: torch.Tensor  # (B, L) bool, False at pads
    labels: torch.Tensor  # (B, L) int64 token ids at selected positions, IGNORED_LABEL elsewhere
    loss_weights: torch.Tensor  # (B, L) float32, 0 at unselected positions
    is_repeat: torch.Tensor  # (B, L) bool, soft-masked in the genome

    @classmethod
    def empty(cls, windows: int, length: int) -> Self:
        """A batch on the CPU whose values are not set yet."""
        kinds = (torch.int64, torch.bool, torch.int64, torch.float32, torch.bool)
        return cls(*(torch.empty(windows, length, dtype=kind) for kind in kinds))

    def take(self, rows: torch.Tensor) -> Self:
        """Some of the windows; rows (b,) int64."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def columns(self, columns: slice) -> Self:
        """A stretch of every window; views."""
        return type(self)(*(getattr(self, field.name)[:, columns] for field in fields(self)))

    @property
    def weight_sum(self) -> torch.Tensor:
        """() float64: sum of the loss weights, by which the loss is normalised."""
        return self.loss_weights.sum(dtype=torch.float64)


def corrupt(packed: torch.Tensor, keys: torch.Tensor, rates: MaskingRates, *, out: Batch | None = None) -> Batch:
    """Select and corrupt positions of a batch of windows.

    Args:
        packed: (B, L) uint8, base codes with the repeat bit, `CODE_PAD` beyond a window's end.
        keys: (B,) int64, the bits of each window's uint64 key.
        out: a CPU batch of that shape to overwrite; fresh memory would cost more than the corruption itself.

    Returns:
        The batch, on the device of `packed`; the same keys and bases give the same batch on any device.
    """
    if packed.device.type != "cpu":
        return corrupt_tensors(packed, keys, rates)
    batch = Batch.empty(*packed.shape) if out is None else out
    arrays: list[Any] = [getattr(batch, field.name).numpy() for field in fields(Batch)]
    corrupt_rows(
        packed.numpy(), keys.numpy().view(np.uint64),
        *map(np.uint32, rates.thresholds), np.float32(rates.repeat_weight), np.uint32(rates.span),
        *arrays,
    )  # fmt: skip
    return batch


def corrupt_tensors(packed: torch.Tensor, keys: torch.Tensor, rates: MaskingRates) -> Batch:
    """`corrupt` in plain tensor operations, for any device; on the CPU many times slower than the compiled loop."""
    codes = (packed & _CODE_BITS).to(torch.int64)
    is_repeat = repeats_of(packed)
    is_pad = codes == CODE_PAD
    ids = torch.where(is_pad, PAD_ID, codes + FIRST_BASE_ID)

    # high bits of a span's word decide whether and how it is corrupted; low two bits of a base's word choose a base
    bits = hash_positions(keys, packed.shape[1])
    share = bits >> 1
    if rates.span > 1:
        positions = torch.arange(packed.shape[1], device=packed.device)
        share = hash_at(keys, (positions + span_offset(keys, rates.span)) // rates.span) >> 1
    below_select, below_mask, below_random = rates.thresholds
    selected = (share < below_select) & (codes < CODE_N)
    masked = selected & (share < below_mask)
    replaced = selected & ~masked & (share < below_random)
    corrupted = torch.where(masked, MASK_ID, torch.where(replaced, (bits & 3) + FIRST_BASE_ID, ids))

    weights = torch.where(is_repeat, rates.repeat_weight, 1.0) * selected
    labels = torch.where(selected, ids, IGNORED_LABEL)
    return Batch(corrupted, ~is_pad, labels, weights.to(torch.float32), is_repeat)


def repeats_of(packed: torch.Tensor) -> torch.Tensor:
    """(B, L) uint8 packed windows -> (B, L) bool, soft-masked bases."""
    return (packed & PACKED_REPEAT_BIT) != 0


def span_offset(keys: torch.Tensor, span: int) -> torch.Tensor:
    """(B, 1) int64 in [0, span): how many bases of each window's first span lie before the window."""
    return hash_at(keys, torch.full((1, 1), -1, device=keys.device)) % span


def uncorrupted_ids(packed: torch.Tensor) -> torch.Tensor:
    """(B, L) uint8 packed windows as (B, L) int64 token ids, pads included."""
    codes = (packed & _CODE_BITS).to(torch.int64)
    return torch.where(codes == CODE_PAD, PAD_ID, codes + FIRST_BASE_ID)

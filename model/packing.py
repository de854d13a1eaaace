"""Packed sequences: what lies between (B, L) tensors with pads and (T, ...) tensors without."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The borders of B sequences laid end to end on T positions. Derived facts are computed once, when first asked.

    Attributes:
        cu_seqlens: (B+1,) int32, cumulative lengths from 0 to T; a sequence may be empty.
        total: T.
    """

    cu_seqlens: Tensor
    total: int

    @cached_property
    def starts(self) -> Tensor:
        """(B,) int64: packed position of each sequence's first element."""
        return self.cu_seqlens[:-1].long()

    @cached_property
    def lengths(self) -> Tensor:
        """(B,) int64."""
        return self.cu_seqlens.diff().long()

    @cached_property
    def max_length(self) -> int:
        """Longest sequence; reading it waits for the device."""
        return int(self.lengths.max()) if len(self.lengths) else 0

    @cached_property
    def sequence(self) -> Tensor:
        """(T,) int64: the sequence each position belongs to."""
        indices = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(indices, self.lengths, output_size=self.total)

    @cached_property
    def offset(self) -> Tensor:
        """(T,) int64: position inside the sequence."""
        return torch.arange(self.total, device=self.lengths.device) - self.starts[self.sequence]

    @cached_property
    def first(self) -> Tensor:
        """(T,) bool: the first position of each sequence."""
        return self.offset == 0

    @cached_property
    def last(self) -> Tensor:
        """(T,) bool: the last position of each sequence."""
        return self.offset == self.lengths[self.sequence] - 1

    def shift(self, values: Tensor, fill: float | bool, *, back: bool = False) -> Tensor:
        """Values of the previous position (`back`: of the next), `fill` where the sequence has none.

        Args:
            values: (T,), any dtype.

        Returns:
            (T,) of the same dtype.
        """
        edge, steps = (self.last, -1) if back else (self.first, 1)
        return torch.where(edge, torch.full_like(values, fill), values.roll(steps))

    def sum(self, values: Tensor) -> Tensor:
        """Sum over each sequence. values (T,) float -> (B,), 0 for empty sequences; fixed order of addition."""
        return torch.segment_reduce(values, "sum", lengths=self.lengths, initial=0)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over each sequence. values (T,) float -> (B,), 0 for empty sequences."""
        return self.sum(values) / self.lengths.clamp_min(1)


def pack(present: Tensor) -> tuple[Packing, Tensor]:
    """Leave pads out.

    Args:
        present: (B, L) bool, True where there is a token.

    Returns:
        The packing and (T,) int64, where each packed position lies in the flattened (B*L,) tensor.
    """
    index = present.flatten().nonzero().squeeze(1)
    borders = torch.zeros(len(present) + 1, dtype=torch.int32, device=present.device)
    borders[1:] = present.sum(1).cumsum(0)
    return Packing(borders, len(index)), index


def unpack(values: Tensor, index: Tensor, shape: tuple[int, int], fill: float | bool = 0) -> Tensor:
    """Scatter packed values (T, ...) back to (B, L, ...), `fill` at pads."""
    flat = torch.full((shape[0] * shape[1], *values.shape[1:]), fill, dtype=values.dtype, device=values.device)
    return flat.index_copy(0, index, values).view(*shape, *values.shape[1:])

"""Packed sequences: from (B, L) tensors with pads to (T, ...) tensors without, and back."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The borders of B sequences laid end to end on T positions. Derived values are computed once, on first use.

    Only the device knows the number of positions. A caller that must not wait for the device fixes T beforehand;
    `filler` extra sequences then take up the rest of T, and their results are never read.

    Attributes:
        cu_seqlens: (B+filler+1,) int32, cumulative lengths from 0 to T; a sequence may be empty.
        total: T.
        longest: no sequence is longer than this; None if unknown.
        filler: number of extra sequences, after the real ones, that only fill up T.
    """

    cu_seqlens: Tensor
    total: int
    longest: int | None = None
    filler: int = 0

    @classmethod
    def filled_up(cls, cu_seqlens: Tensor, total: int, longest: int) -> "Packing":
        """Sequences with borders cu_seqlens (B+1,), then filler of length `longest` or less up to T = `total`."""
        count = -(-total // longest)
        ends = cu_seqlens[-1] + longest * torch.arange(1, count + 1, device=cu_seqlens.device)
        borders = torch.cat((cu_seqlens, ends)).clamp_max(total).int()
        return cls(borders, total, longest, count)

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
        """No sequence is longer than this; waits for the device if `longest` is None."""
        if self.longest is not None:
            return self.longest
        return int(self.lengths.max()) if len(self.lengths) else 0

    @cached_property
    def sequence(self) -> Tensor:
        """(T,) int64: the sequence each position belongs to."""
        indices = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(indices, self.lengths, output_size=self.total)

    @cached_property
    def real(self) -> Tensor:
        """(T,) bool: positions of real sequences, not of filler."""
        return self.sequence < len(self.lengths) - self.filler

    @cached_property
    def real_lengths(self) -> Tensor:
        """(B,) int64: lengths of the real sequences, without filler."""
        return self.lengths[: len(self.lengths) - self.filler]

    @cached_property
    def whole_lengths(self) -> Tensor:
        """(B,) int64: lengths of the real sequences; they differ from `real_lengths` only in a SplitPacking."""
        return self.real_lengths

    @property
    def ranks(self) -> int:
        """Number of ranks over which the sequences are split."""
        return 1

    def of_chunks(self, borders: Tensor, total: int) -> "Packing":
        """The packing of `total` chunks of these sequences; borders (B+1,) int64, cumulative counts."""
        return Packing(borders.int(), total, self.longest)

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

    @cached_property
    def steps(self) -> Tensor:
        """(2, T) int32: number of positions before each one in its sequence, read forward and read backward."""
        return torch.stack((self.offset, self.lengths[self.sequence] - 1 - self.offset)).int()

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
        """Sum over each real sequence. values (T,) float -> (B,), 0 for empty ones; fixed order of addition."""
        # unsafe: the lengths are right, and a check would wait for the device
        sums = torch.segment_reduce(values, "sum", lengths=self.lengths, initial=0, unsafe=True)
        return sums[: len(self.real_lengths)]

    def mean(self, values: Tensor) -> Tensor:
        """Mean over each real sequence. values (T,) float -> (B,), 0 for empty ones."""
        return self.sum(values) / self.whole_lengths.clamp_min(1)


def pack(present: Tensor, *, wait: bool = True) -> tuple[Packing, Tensor]:
    """Leave pads out.

    Args:
        present: (B, L) bool, True where there is a token.
        wait: wait for the device to count the tokens. Otherwise T is B*L, and filler replaces the pads.

    Returns:
        The packing and (T,) int64, the index of each packed position in the flattened (B*L,) tensor; B*L for filler.
    """
    borders = torch.zeros(len(present) + 1, dtype=torch.int32, device=present.device)
    borders[1:] = present.sum(1).cumsum(0)
    if not wait and present.numel():
        nowhere = present.numel()
        index = torch.nonzero_static(present.flatten(), size=nowhere, fill_value=nowhere).squeeze(1)
        return Packing.filled_up(borders, nowhere, present.shape[1]), index
    index = present.flatten().nonzero().squeeze(1)
    return Packing(borders, len(index), present.shape[1]), index


def take(values: Tensor, index: Tensor, fill: float | bool) -> Tensor:
    """(B, L, ...) values -> packed values (T, ...), `fill` where the index is B*L."""
    flat = values.flatten(0, 1)
    return torch.cat((flat, flat.new_full((1, *flat.shape[1:]), fill)))[index]


def unpack(values: Tensor, index: Tensor, shape: tuple[int, int], fill: float | bool = 0) -> Tensor:
    """Scatter packed values (T, ...) back to (B, L, ...), `fill` at pads."""
    count = shape[0] * shape[1]
    flat = torch.full((count + 1, *values.shape[1:]), fill, dtype=values.dtype, device=values.device)
    return flat.index_copy_(0, index, values)[:count].view(*shape, *values.shape[1:])

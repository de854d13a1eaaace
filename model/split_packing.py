"""Packed sequences of which each rank of a context group holds a contiguous stretch.

The stretches of a sequence, in order of rank, make up the sequence; a stretch may be empty. `SplitPacking` answers as
`Packing` does, but for the whole sequence: the first position of a stretch is not the first of its sequence.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from .context_group import ContextGroup
from .packing import Packing


@dataclass(frozen=True)
class SplitPacking(Packing):
    """The stretches that this rank holds of B sequences; `lengths`, `starts` and `total` are those of the stretches.

    Attributes:
        group: the ranks that hold the other stretches.
        rank_lengths: (P, B) int64, the length of every rank's stretch of every sequence.
    """

    group: ContextGroup = field(kw_only=True)
    rank_lengths: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, packing: Packing, group: ContextGroup) -> "SplitPacking":
        """This rank's stretches, and the lengths of the others'; collective."""
        return cls(
            packing.cu_seqlens, packing.total, packing.longest, group=group, rank_lengths=group.gather(packing.lengths)
        )

    def of_chunks(self, borders: Tensor, total: int) -> "SplitPacking":
        """As `Packing.of_chunks`; collective."""
        return SplitPacking.of(super().of_chunks(borders, total), self.group)

    @property
    def ranks(self) -> int:
        return self.group.size

    @cached_property
    def begins(self) -> Tensor:
        """(B,) int64: positions of each sequence that lie on ranks before this one."""
        return self.rank_lengths[: self.group.rank].sum(0)

    @cached_property
    def whole_lengths(self) -> Tensor:
        return self.rank_lengths.sum(0)

    @cached_property
    def offset(self) -> Tensor:
        """(T,) int64: position inside the whole sequence."""
        return torch.arange(self.total, device=self.starts.device) + (self.begins - self.starts)[self.sequence]

    @cached_property
    def last(self) -> Tensor:
        """(T,) bool: the last position of each whole sequence."""
        return self.offset == self.whole_lengths[self.sequence] - 1

    @property
    def steps(self) -> Tensor:
        raise NotImplementedError("the Triton kernels read whole sequences only")

    def mean(self, values: Tensor) -> Tensor:
        """Mean over each whole sequence. values (T,) float -> (B,), 0 for empty ones; collective."""
        return self.group.gather(self.sum(values)).sum(0) / self.whole_lengths.clamp_min(1)

    def shift(self, values: Tensor, fill: float | bool, *, back: bool = False) -> Tensor:
        """As `Packing.shift`, for values (T, ...); the value beyond the border of a stretch is another rank's."""
        outside = self.beside(values, 1, back=back).squeeze(1)
        filled = self.lengths.nonzero().squeeze(1)
        at_border = (self.starts + (self.lengths - 1 if back else 0))[filled]
        moved = values.roll(-1 if back else 1, 0).index_copy(0, at_border, outside[filled])
        edge = self.last if back else self.first
        return moved.masked_fill(_broadcast(edge, values), fill)

    def beside(self, values: Tensor, count: int, *, back: bool = False) -> Tensor:
        """The `count` positions before each stretch (`back`: after it), 0 where the sequence has none; collective.

        Args:
            values: (T, ...), any dtype.

        Returns:
            (B, count, ...), in the order of the sequence.
        """
        shape = len(self.lengths), count, *values.shape[1:]
        distance = torch.arange(1, count + 1, device=self.lengths.device)  # from the border between two ranks
        # what this rank has for the ranks on its other side: (B, count) positions, the nearest first
        offered = self.starts[:, None] + (distance - 1 if back else self.lengths[:, None] - distance)
        missing = distance > self.lengths[:, None]
        if self.total:
            edges = values.index_select(0, offered.masked_fill(missing, 0).flatten()).view(shape)
        else:  # zeros that belong to the graph, as the gathered values of every rank must
            edges = values.sum(0, dtype=values.dtype).expand(shape)
        everyone = self.group.gather(edges.masked_fill(_broadcast(missing, edges), 0)).flatten(0, 2)
        source, found = self._sources(distance, back)
        near = everyone.index_select(0, source.flatten()).view(shape)
        near = near.masked_fill(_broadcast(~found, near), 0)
        return near if back else near.flip(1)

    def _sources(self, distance: Tensor, back: bool) -> tuple[Tensor, Tensor]:
        """Of the positions at each distance from a stretch: index into the (P*B*count,) edges of all ranks; if any."""
        rank, size = self.group.rank, self.group.size
        near = torch.tensor(
            range(rank + 1, size) if back else range(rank - 1, -1, -1), dtype=torch.int64, device=distance.device
        )
        lengths = self.rank_lengths[near].unsqueeze(-1)  # (Q, B, 1), the nearest rank first
        skipped = lengths.cumsum(0) - lengths
        inside = (distance > skipped) & (distance <= skipped + lengths)  # (Q, B, count)
        window = torch.arange(len(self.lengths), device=distance.device)[:, None]
        index = (near[:, None, None] * len(self.lengths) + window) * len(distance) + distance - skipped - 1
        return index.masked_fill(~inside, 0).sum(0), inside.any(0)

    def room(self, count: int) -> "Room":
        """Room for `count` positions at both ends of each stretch; the same object each time."""
        if count not in self._rooms:
            self._rooms[count] = Room.around(self, count)
        return self._rooms[count]

    @cached_property
    def _rooms(self) -> dict[int, "Room"]:
        return {}

    def from_later(self, pieces: Tensor) -> Tensor:
        """What later ranks hold of the last position of this rank's stretch, summed; collective.

        The positions here are chunks, and a chunk lies on the rank where it starts. Its members on later ranks make a
        piece there, up to the first chunk that starts there.

        Args:
            pieces: (B, ...), this rank's piece of each sequence, 0 where there is none.

        Returns:
            (B, ...)
        """
        everyone = self.group.gather(pieces)[self.group.rank + 1 :]
        later = self.rank_lengths[self.group.rank + 1 :]
        belongs = (later.cumsum(0) - later) == 0  # no chunk starts on a rank between
        return everyone.masked_fill(_broadcast(~belongs, everyone), 0).sum(0, dtype=pieces.dtype)

    @cached_property
    def whole(self) -> Packing:
        """The packing of the whole sequences; waits for the device."""
        borders = F.pad(self.whole_lengths.cumsum(0), (1, 0)).int()
        return Packing(borders, int(borders[-1]), int(self.whole_lengths.max()) if len(self.whole_lengths) else 0)

    @cached_property
    def in_whole(self) -> Tensor:
        """(T,) int64: index of this rank's positions in `whole`."""
        return self.whole.starts[self.sequence] + self.offset

    def gather_whole(self, values: Tensor) -> Tensor:
        """Values of whole sequences: (T, ...) -> (W, ...), packed as `whole`; collective."""
        filled = torch.cat((values, values.new_zeros(self._most - self.total, *values.shape[1:])))
        return self.group.gather(filled).flatten(0, 1).index_select(0, self._order)

    @cached_property
    def _most(self) -> int:
        """The largest T of all ranks."""
        return int(self.rank_lengths.sum(1).max())

    @cached_property
    def _order(self) -> Tensor:
        """(W,) int64: where the positions of whole sequences lie in the (P * most,) positions that ranks hand in."""
        starts = self.rank_lengths.cumsum(1) - self.rank_lengths
        starts = starts + self._most * torch.arange(self.ranks, device=starts.device)[:, None]
        lengths = self.rank_lengths.t().flatten()  # sequence by sequence, rank by rank
        shifts = starts.t().flatten() - (lengths.cumsum(0) - lengths)
        shifts = torch.repeat_interleave(shifts, lengths, output_size=self.whole.total)
        return shifts + torch.arange(self.whole.total, device=starts.device)


def _broadcast(mask: Tensor, values: Tensor) -> Tensor:
    """The mask, (A, ...), with as many dimensions as values, (A, ..., ...)."""
    return mask.view(*mask.shape, *[1] * (values.dim() - mask.dim()))


@dataclass(frozen=True)
class Room(Packing):
    """The stretches of a SplitPacking with `count` positions more at both ends, to hold what comes from other ranks.

    Attributes:
        split: the packing of the stretches.
        count: positions added at each end, also to an empty stretch.
    """

    split: SplitPacking = field(kw_only=True)
    count: int = field(kw_only=True)

    @classmethod
    def around(cls, split: SplitPacking, count: int) -> "Room":
        """Room for `count` positions at both ends of each stretch."""
        numbers = torch.arange(len(split.cu_seqlens), dtype=torch.int32, device=split.starts.device)
        total = split.total + 2 * count * len(split.lengths)
        return cls(split.cu_seqlens + 2 * count * numbers, total, split=split, count=count)

    @cached_property
    def inner(self) -> Tensor:
        """(T,) int64: where the positions of the stretches lie."""
        positions = torch.arange(self.split.total, device=self.starts.device)
        return positions + self.count * (2 * self.split.sequence + 1)

    @cached_property
    def before(self) -> Tensor:
        """(B, count) int64: the positions added before each stretch."""
        return self.starts[:, None] + torch.arange(self.count, device=self.starts.device)

    @cached_property
    def after(self) -> Tensor:
        """(B, count) int64: the positions added after each stretch."""
        return self.before + (self.count + self.split.lengths)[:, None]

    @cached_property
    def added(self) -> Tensor:
        """(2 * B * count,) int64: all positions added."""
        return torch.cat((self.before, self.after)).flatten()

    def fill(self, values: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """(T, ...) and what to add, (B, count, ...) each -> all positions."""
        room = values.new_empty(self.total, *values.shape[1:]).index_copy(0, self.inner, values)
        return room.index_copy(0, self.added, torch.cat((before, after)).flatten(0, 1))

    def fill_with_neighbours(self, values: Tensor, count: int) -> Tensor:
        """(T, D) -> all positions, the nearest `count` of those added from the other ranks, and zeros; collective."""
        before, after = (self.split.beside(values, count, back=back) for back in (False, True))
        zeros = self.count - count
        return self.fill(values, F.pad(before, (0, 0, zeros, 0)), F.pad(after, (0, 0, 0, zeros)))

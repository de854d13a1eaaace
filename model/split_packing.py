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
        copies = values.expand(self.ranks, *values.shape).flatten(0, 1)
        return self.group.exchange(copies, [self.total] * self.ranks, self._totals).index_select(0, self._order)

    def to_heads(self, values: Tensor) -> Tensor:
        """From all heads at this rank's positions to this rank's heads at all positions; collective (Ulysses).

        Args:
            values: (T, ..., H, K); P divides H.

        Returns:
            (W, ..., H/P, K), packed as `whole`.
        """
        grouped = values.unflatten(-2, (self.ranks, -1)).movedim(-3, 0).flatten(0, 1)
        return self.group.exchange(grouped, [self.total] * self.ranks, self._totals).index_select(0, self._order)

    def from_heads(self, values: Tensor) -> Tensor:
        """The way back: (W, ..., H/P, K) -> (T, ..., H, K); collective."""
        by_rank = values.index_select(0, self._order_back)
        grouped = self.group.exchange(by_rank, self._totals, [self.total] * self.ranks)
        return grouped.unflatten(0, (self.ranks, self.total)).movedim(0, -3).flatten(-3, -2)

    @cached_property
    def _totals(self) -> list[int]:
        """P numbers: T of every rank; waits for the device."""
        return [int(total) for total in self.rank_lengths.sum(1).tolist()]

    @cached_property
    def _order(self) -> Tensor:
        """(W,) int64: where the positions of whole sequences lie among those of all ranks, rank after rank."""
        lengths = self.rank_lengths.flatten()
        starts = (lengths.cumsum(0) - lengths).view_as(self.rank_lengths).t().flatten()
        lengths = self.rank_lengths.t().flatten()  # sequence by sequence, rank by rank
        shifts = starts - (lengths.cumsum(0) - lengths)
        shifts = torch.repeat_interleave(shifts, lengths, output_size=self.whole.total)
        return shifts + torch.arange(self.whole.total, device=starts.device)

    @cached_property
    def _order_back(self) -> Tensor:
        """(W,) int64: the inverse of `_order`."""
        return self._order.argsort()

    @cached_property
    def even(self) -> "SplitPacking":
        """The same sequences, each cut into P stretches of equal length, but for one position."""
        numbers = torch.arange(self.ranks + 1, device=self.starts.device)
        rank_lengths = (numbers[:, None] * self.whole_lengths // self.ranks).diff(dim=0)
        borders = F.pad(rank_lengths[self.group.rank].cumsum(0), (1, 0)).int()
        longest = -(-self.whole.max_length // self.ranks)
        return SplitPacking(borders, int(borders[-1]), longest, group=self.group, rank_lengths=rank_lengths)

    def move(self, values: Tensor, to: "SplitPacking") -> Tensor:
        """Values of the positions that this rank has in `to`, another cut of the same sequences; collective.

        Args:
            values: (T, ...), any dtype.
        """
        towards, origin = to.ranks_of(self), self.ranks_of(to)
        sent, received = (ranks.bincount(minlength=self.ranks).tolist() for ranks in (towards, origin))
        ready = values.index_select(0, towards.argsort(stable=True))
        arrived = self.group.exchange(ready, sent, received)
        return arrived.index_select(0, origin.argsort(stable=True).argsort())

    def ranks_of(self, other: "SplitPacking") -> Tensor:
        """The rank that has here what this rank has in `other`, a cut of the same sequences: (T of `other`,) int64."""
        ends = self.rank_lengths.cumsum(0)
        return (other.offset >= ends[:, other.sequence]).sum(0)


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

"""The ranks of a context group: each holds a contiguous stretch of every window, and all of them hold all weights.

A loss is a sum over the ranks: each calls `backward` on its own share, and the gradient of a weight is the sum of the
gradients on all ranks. All ranks of a group must make the same collectives in the same order, forward and backward.
The order of the backward pass is that of the forward pass reversed, because autograd runs the newest operation first.
So an operation with a collective must be part of the graph on every rank, also on one whose stretch is empty.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True)
class ContextGroup:
    """This process in its context group.

    Attributes:
        rank: of this process in the group; rank 0 holds the first stretch of each window.
        size: P, number of ranks.
        processes: torch's process group, in the order of the ranks; None for all processes.
    """

    rank: int
    size: int
    processes: Any = None

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's values: (...), of one shape and dtype on all ranks -> (P, ...); differentiable, collective."""
        if values.dtype == torch.bool:
            return self.gather(values.to(torch.uint8)).bool()
        everyone: Tensor = _Gather.apply(values, self)
        return everyone

    def exchange(self, values: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Send each rank some rows and take the rows that it sends; differentiable, collective.

        Args:
            values: (sum of `sent`, ...), the rows for each rank, in order of rank.
            sent, received: P each, rows for and from each rank.

        Returns:
            (sum of `received`, ...), in order of rank.
        """
        if values.dtype == torch.bool:
            return self.exchange(values.to(torch.uint8), sent, received).bool()
        arrived: Tensor = _Exchange.apply(values, sent, received, self)
        return arrived

    def columns(self, length: int) -> slice:
        """The positions of this rank's stretch in windows of so many positions."""
        borders = self._borders(length)
        return slice(borders[self.rank], borders[self.rank + 1])

    def _borders(self, length: int) -> list[int]:
        return [number * length // self.size for number in range(self.size + 1)]

    def join(self, values: Tensor, length: int, dim: int) -> Tensor:
        """Whole windows from the stretches of all ranks, along dimension `dim`; collective.

        Args:
            values: (..., l, ...), l as `columns` has it.
            length: L, positions of a whole window.

        Returns:
            (..., L, ...)
        """
        sizes = [end - begin for begin, end in pairwise(self._borders(length))]
        longest = max(sizes)
        moved = values.movedim(dim, 0)
        filled = torch.cat((moved, moved.new_zeros(longest - len(moved), *moved.shape[1:])))
        pieces = [piece[:size] for piece, size in zip(self.gather(filled), sizes, strict=True)]
        return torch.cat(pieces).movedim(0, dim)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: ContextGroup) -> Tensor:
        ctx.group = group
        everyone = values.new_empty(group.size, *values.shape)
        if group.size == 1 or not values.numel():
            return everyone.copy_(values)
        dist.all_gather(list(everyone.unbind()), values.contiguous(), group=group.processes)
        return everyone

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad, group = grads[0].contiguous(), ctx.group
        if group.size == 1 or not grad.numel():
            return grad.sum(0), None
        received = torch.empty_like(grad)  # of each rank, what it adds to this rank's gradient
        dist.all_to_all_single(received, grad, group=group.processes)
        return received.sum(0), None


class _Exchange(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, sent: list[int], received: list[int], group: ContextGroup) -> Tensor:
        ctx.back = received, sent, group
        return _exchanged(values, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchanged(grads[0], *ctx.back), None, None, None


def _exchanged(values: Tensor, sent: list[int], received: list[int], group: ContextGroup) -> Tensor:
    if group.size == 1:
        return values.clone()
    arrived = values.new_empty(sum(received), *values.shape[1:])
    dist.all_to_all_single(arrived, values.contiguous(), received, sent, group=group.processes)
    return arrived

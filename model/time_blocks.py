"""Blocks of time: a BiMamba layer reads a long window one block after the other, and needs the memory of a block.

A block reads `halo` positions beyond its ends, which its convolutions need, and takes the state that enters it: from
the block before it, and, for the direction that reads backward, from the block after it. Results are those of the whole
layer, up to the order of sums.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from .kernels import precise, selective_scan
from .packing import Packing
from .split_operations import NO_TIME
from .split_packing import SplitPacking


@dataclass(frozen=True)
class TimeBlock:
    """Positions [start, stop) of T packed ones, and the positions beside them that a convolution reads.

    Attributes:
        whole: the packing of the T positions.
        read: the positions that are read, as a slice of T.
        inner: the block, as a slice of `read`.
    """

    whole: Packing
    read: slice
    inner: slice

    @cached_property
    def own(self) -> slice:
        """The block, as a slice of T."""
        return slice(self.read.start + self.inner.start, self.read.start + self.inner.stop)

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """(B+1,) int32, borders of the sequences among the positions read."""
        return self._borders(self.read)

    @cached_property
    def steps(self) -> Tensor:
        """(2, R) int32: `Packing.steps` of the R positions read; they count positions before the block too."""
        return self.whole.steps[:, self.read].contiguous()

    def entered(self, *, reverse: bool) -> Tensor:
        """() bool: the sequence of the first position that a direction reads began before the block."""
        return self.steps[1, self.inner.stop - 1] > 0 if reverse else self.steps[0, self.inner.start] > 0

    def with_room(self, count: int) -> Tensor:
        """(B+1,) int32, borders in the block with `count` positions more at both ends, which belong to what is there.

        The positions before the block join its first sequence that is not empty, those after it the last.
        """
        borders = self._borders(self.own)
        return borders + count * ((borders > 0).int() + (borders == borders[-1]).int())

    def _borders(self, among: slice) -> Tensor:
        return (self.whole.cu_seqlens - among.start).clamp(0, among.stop - among.start)


def takes_blocks(packing: Packing, size: int) -> bool:
    """Whether a window is longer than blocks of `size` positions, and not split over ranks; 0 asks for no blocks."""
    if isinstance(packing, SplitPacking):
        return False
    longest = packing.total if packing.longest is None else packing.longest
    return 0 < size < min(packing.total, longest)


def blocks_of(packing: Packing, size: int, halo: int) -> list[TimeBlock]:
    """Blocks of `size` positions, the last one shorter, that read `halo` positions more where there are some."""
    blocks = []
    for start in range(0, packing.total, size):
        stop = min(start + size, packing.total)
        read = slice(max(0, start - halo), min(stop + halo, packing.total))
        blocks.append(TimeBlock(packing, read, slice(start - read.start, stop - read.start)))
    return blocks


def pieces_of(x: Tensor, blocks: Sequence[TimeBlock]) -> Sequence[Tensor]:
    """What each block reads of x (T, ...), as views. Their gradients are added up in one tensor."""
    pieces: Sequence[Tensor] = _Pieces.apply(x, [block.read for block in blocks])
    return pieces


class _Pieces(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reads: list[slice]) -> tuple[Tensor, ...]:
        ctx.reads, ctx.shape = reads, x.shape
        return tuple(x[read] for read in reads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total = grads[0].new_zeros(ctx.shape)
        for read, grad in zip(ctx.reads, grads, strict=True):
            total[read] += grad
        return total, None


def run_block(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function, and again in the backward pass: between the two only its arguments are kept."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


def joined(parts: Iterator[Tensor], blocks: Sequence[TimeBlock], like: Tensor) -> Tensor:
    """The parts (n, ...) of all blocks as one tensor, of the dtype and shape of `like` (T, ...)."""
    if torch.is_grad_enabled():
        return torch.cat(list(parts))
    whole = torch.empty_like(like)  # parts and the whole would need twice the memory
    for block, part in zip(blocks, parts, strict=True):
        whole[block.own] = part
    return whole


def scan_of_block(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, block: TimeBlock, entering: Tensor, *,
    reverse: bool, backend: str = "auto",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`kernels.selective_scan` of the T positions of a block, by the kernels for whole sequences.

    N positions more at both ends hold the states: those that are read first write the state that enters, one of N
    values for each channel at each position; at those that are read last, y is the state that leaves.

    Args:
        entering: (N, Dm), in at least float32.
        u, delta, A, B, C, D, reverse, backend: as `kernels.selective_scan`.

    Returns:
        y (T, Dm), dtype of u; and (N, Dm), the state that leaves, dtype of `entering`.
    """
    dtype, states = u.dtype, A.shape[1]
    u, delta, A, B, C, D = map(precise, (u, delta, A, B, C, D))
    entering = entering * block.entered(reverse=reverse)
    unit, nothing = torch.eye(states, dtype=B.dtype, device=B.device), B.new_zeros(states, states)
    still = torch.zeros_like(entering)
    first = (entering / NO_TIME, still + NO_TIME, unit, nothing)
    last = (still, still, nothing, unit)
    before, after = (last, first) if reverse else (first, last)
    inputs = (torch.cat(parts) for parts in zip(before, (u, delta, B, C), after, strict=True))
    u_longer, delta_longer, B_longer, C_longer = inputs
    y = selective_scan(
        u_longer, delta_longer, A, B_longer, C_longer, D, block.with_room(states), reverse=reverse, backend=backend
    )
    ahead, own, behind = y.split((states, len(u), states))
    return own.to(dtype), ahead if reverse else behind

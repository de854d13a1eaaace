"""Scan and smoothing of sequences that are split over the ranks of a context group, by any kernels.

Both are linear in their state. So each rank reads its stretches from a state of zero, and hands on what that gives: the
state at the end, and the factor by which a state that enters would be left there. From these of all ranks before it, a
rank computes the state that enters its own stretches, and adds what that state gives. Positions added to the stretches
(`Room`) let the kernels for whole sequences write the first state and read the last.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .kernels import precise
from .kernels import selective_scan as scan_here
from .kernels import smooth as smooth_here
from .packing import Packing
from .split_packing import Room, SplitPacking

# A step so short that every decay is exactly 1; a power of two, so that step * (state / step) is exactly the state.
NO_TIME = 2.0**-60


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, packing: Packing, *, reverse: bool,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """`kernels.selective_scan`; shapes as `kernels_reference.selective_scan`.

    Args:
        packing: a Room of at least N positions where sequences are split; then results count at its inner positions
            only, and whatever the inputs are at the others. Collective.
    """
    if not isinstance(packing, Room):
        return scan_here(u, delta, A, B, C, D, packing.cu_seqlens, reverse=reverse, backend=backend)
    dtype, (channels, states), count = u.dtype, A.shape, len(packing.lengths)
    u, delta, A, B, C, D = map(precise, (u, delta, A, B, C, D))
    ends = (packing.after, packing.before) if reverse else (packing.before, packing.after)
    first, last = (rows[:, :states].flatten() for rows in ends)
    delta = delta.index_fill(0, packing.added, 0)  # no time passes, and nothing is driven
    C = C.index_copy(0, last, _units(C, count))  # so that y is the state there, one column at each position
    y = scan_here(u, delta, A, B, C, torch.zeros_like(D), packing.cu_seqlens, reverse=reverse, backend=backend)
    leaving = y.index_select(0, last).view(count, states, channels)
    time = delta.new_zeros(count, channels).index_add(0, packing.sequence, delta)
    entering = _entering(torch.exp(time.unsqueeze(1) * A.t()), leaving, packing.split, reverse)
    # computed again in the backward pass, which would otherwise keep as much as for the scan itself
    carried = checkpoint(
        _carried, entering, delta, A, B, C, first, packing, reverse, backend, use_reentrant=False,
        preserve_rng_state=False,
    )  # fmt: skip
    return (y + carried + D * u).to(dtype)


def _carried(
    entering: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, first: Tensor, packing: Room, reverse: bool,
    backend: str,
) -> Tensor:  # fmt: skip
    """What the states (B, N, Dm) that enter the stretches add to the scan. -> (T, Dm)."""
    u = torch.zeros_like(delta).index_copy(0, first, entering.flatten(0, 1) / NO_TIME)
    delta = delta.index_fill(0, first, NO_TIME)
    B = B.index_copy(0, first, _units(B, len(entering)))
    nothing = A.new_zeros(len(A))
    return scan_here(u, delta, A, B, C, nothing, packing.cu_seqlens, reverse=reverse, backend=backend)


def _units(like: Tensor, count: int) -> Tensor:
    """The unit vectors of N states, for each of so many sequences: (count * N, N)."""
    return torch.eye(like.shape[1], dtype=like.dtype, device=like.device).repeat(count, 1)


def smooth_both_ways(z: Tensor, gates: Tensor, packing: SplitPacking, *, backend: str = "auto") -> Tensor:
    """`kernels.smooth_both_ways` of whole sequences; collective.

    A channel of its own, 1 before each stretch and 0 in it, becomes at each position the share of a state before the
    stretch that is left there.

    Args:
        z: (T, D). gates: (2, T), forward and backward; 1 where the direction enters a sequence.

    Returns:
        (T, D), dtype of z.
    """
    dtype, width, count = z.dtype, z.shape[1], len(packing.lengths)
    z, gates, room = precise(z), precise(gates), packing.room(1)
    unit = F.one_hot(torch.tensor([width], device=z.device), width + 1).to(z.dtype).expand(count, 1, width + 1)
    longer = room.fill(F.pad(z, (0, 1)), unit, unit)
    closed, open_ = gates.new_ones(count, 1), gates.new_zeros(count, 1)  # the state passes an open gate unchanged
    forward, backward = room.fill(gates[0], closed, open_), room.fill(gates[1], open_, closed)
    mean = torch.zeros_like(z)
    for gate, last, reverse in ((forward, room.after, False), (backward, room.before, True)):
        f = smooth_here(longer, gate, room.cu_seqlens, reverse=reverse, backend=backend)
        state, factor = f.index_select(0, last.squeeze(1)).split((width, 1), dim=1)
        entering = _entering(factor, state, packing, reverse)
        own, left = f.index_select(0, room.inner).split((width, 1), dim=1)
        mean = mean + (own + left * entering[packing.sequence]) / 2
    return mean.to(dtype)


def _entering(factor: Tensor, state: Tensor, packing: SplitPacking, reverse: bool) -> Tensor:
    """The state that enters each stretch; collective.

    Args:
        factor: (B, F, ...), what is left of a state after this rank's stretch; broadcasts to `state`.
        state: (B, N, ...), the state after it, if none enters.
    """
    group = packing.group
    together = group.gather(torch.cat((factor, state), dim=1))
    factors, states = together.split((factor.shape[1], state.shape[1]), dim=2)
    before = range(group.size - 1, group.rank, -1) if reverse else range(group.rank)
    entering = states[:0].sum(0)  # zero, and in the graph on every rank
    for rank in before:
        entering = states[rank] + factors[rank] * entering
    return entering

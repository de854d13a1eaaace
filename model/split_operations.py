"""Convolution, scan and smoothing of sequences that are split over the ranks of a context group, by any kernels.

Each operation reads whole sequences here, in terms of the kernels for one rank: positions that other ranks hold, or
that stand for a state, are added to the stretches. The ranks hand on only what crosses a border: the last positions
for a convolution, and for a recurrence the factor and the state that a stretch adds.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import conv_silu as conv_silu_here
from .kernels import precise
from .kernels import selective_scan as scan_here
from .kernels import smooth as smooth_here
from .packing import Packing
from .split_packing import Grown, SplitPacking

# A step so small that every decay is exactly 1; a power of two, so that step * (state / step) is exactly the state.
_NO_TIME = 2.0**-60


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, packing: Packing, *, reverse: bool, backend: str = "auto"
) -> Tensor:
    """`kernels.conv_silu` of whole sequences. x (T, Dm) -> (T, Dm)."""
    halo = weight.shape[1] - 1
    if not isinstance(packing, SplitPacking) or not halo:
        return conv_silu_here(x, weight, bias, packing.cu_seqlens, reverse=reverse, backend=backend)
    grown = Grown(packing, halo, at_end=reverse)
    longer = grown.fill(x, packing.beside(x, halo, back=reverse))
    y = conv_silu_here(longer, weight, bias, grown.cu_seqlens, reverse=reverse, backend=backend)
    return y.index_select(0, grown.inner)


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, packing: Packing, *, reverse: bool,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """`kernels.selective_scan` of whole sequences; shapes as `kernels_reference.selective_scan`.

    The scan is linear in its state: a first pass from zero gives the states at the ends of the stretches, and a second
    one, with nothing but the state that enters a stretch, what that state adds. N positions added to a stretch read
    its last state, one column each, or write the first: B or C there is a unit vector, and no time passes.
    """
    if not isinstance(packing, SplitPacking):
        return scan_here(u, delta, A, B, C, D, packing.cu_seqlens, reverse=reverse, backend=backend)
    dtype, (channels, states), count = u.dtype, A.shape, len(packing.lengths)
    u, delta, A, B, C, D = map(precise, (u, delta, A, B, C, D))
    unit = torch.eye(states, dtype=u.dtype, device=u.device).expand(count, states, states)
    nothing = u.new_zeros(count, states, channels)
    after = Grown(packing, states, at_end=not reverse)
    y = scan_here(
        after.fill(u, nothing), after.fill(delta, nothing), A, after.fill(B, torch.zeros_like(unit)),
        after.fill(C, unit), D, after.cu_seqlens, reverse=reverse, backend=backend,
    )  # fmt: skip
    leaving = y.index_select(0, after.added).view(count, states, channels)
    time = delta.new_zeros(count, channels).index_add(0, packing.sequence, delta)
    entering = _entering(torch.exp(time.unsqueeze(1) * A.t()), leaving, packing, reverse)
    before = Grown(packing, states, at_end=reverse)
    carried = scan_here(
        before.fill(torch.zeros_like(u), entering / _NO_TIME), before.fill(delta, torch.full_like(nothing, _NO_TIME)),
        A, before.fill(B, unit), before.fill(C, torch.zeros_like(unit)), torch.zeros_like(D), before.cu_seqlens,
        reverse=reverse, backend=backend,
    )  # fmt: skip
    return (y.index_select(0, after.inner) + carried.index_select(0, before.inner)).to(dtype)


def smooth(z: Tensor, gate: Tensor, packing: SplitPacking, *, reverse: bool, backend: str = "auto") -> Tensor:
    """One direction of `kernels_reference.smooth` of whole sequences.

    A position added before each stretch holds 1 in a channel of its own and 0 in the others. That channel then has, at
    each position, the share of a state before the stretch that is left there.

    Args:
        z: (T, D). gate: (T,), 1 where the direction enters a sequence.

    Returns:
        (T, D), dtype of z.
    """
    dtype, width, count = z.dtype, z.shape[1], len(packing.lengths)
    z, gate = precise(z), precise(gate)
    grown = Grown(packing, 1, at_end=reverse)
    unit = F.one_hot(torch.tensor([width], device=z.device), width + 1).to(z.dtype).expand(count, 1, width + 1)
    f = smooth_here(
        grown.fill(F.pad(z, (0, 1)), unit), grown.fill(gate, gate.new_ones(count, 1)).to(z.dtype), grown.cu_seqlens,
        reverse=reverse, backend=backend,
    )  # fmt: skip
    leaving = f.index_select(0, grown.ends)
    entering = _entering(leaving[:, width:], leaving[:, :width], packing, reverse)
    own, left = f.index_select(0, grown.inner).split((width, 1), dim=1)
    return (own + left * entering[packing.sequence]).to(dtype)


def _entering(factor: Tensor, state: Tensor, packing: SplitPacking, reverse: bool) -> Tensor:
    """The state that enters each stretch; collective.

    Args:
        factor: (B, ...), what is left of a state after this rank's stretch; broadcasts to `state`.
        state: (B, ...), the state after it, if none enters.
    """
    group = packing.group
    factors, states = group.gather(factor), group.gather(state)
    before = range(group.size - 1, group.rank, -1) if reverse else range(group.rank)
    entering = (factors[:0].sum(0) + states[:0].sum(0)).expand_as(state)  # zero, and in the graph on every rank
    for rank in before:
        entering = states[rank] + factors[rank] * entering
    return entering

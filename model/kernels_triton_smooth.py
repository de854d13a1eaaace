"""Triton kernels of the gated smoothing, from both sides in one launch, forward and backward.

As in `kernels_triton_scan.py`, time is divided into spans, there are three launches, and direction 1 reads backward.
Here a gate of 1 starts a new sequence. A program holds its whole span in registers: `smooth_emit` reads z once, only
the values that enter the spans are stored, and f and h are added in float32 whatever the precision of z. The encoder's
output that the network adds to the result, zero where a mask hides it, is added here.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels_triton import end_of_range, launched, tl, triton


@launched
def smooth_reach(values, gate, ends, through, T, D, scale, SPAN: tl.constexpr, WIDTH: tl.constexpr, BACK: tl.constexpr):
    """The value each span ends in from zeros, and the share left of one that enters. Grid (spans, ceil(D/WIDTH), 2).

    values (T, D), gate (2, T); writes ends (spans, 2, D) and through (spans, 2) float32. Forward, the recurrence is
    f_t = g_t z_t + (1 - g_t) f_{t-1}; with BACK, of gradients, it is r_t = (1 - g_t) (scale df_t + r_{t+1}).
    """
    span, block, way = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    d = block * WIDTH + tl.arange(0, WIDTH)
    state = tl.zeros([WIDTH], tl.float32)
    left = 1.0
    rising = (way == 0) != BACK
    for i in range(SPAN):
        t = span * SPAN + tl.where(rising, i, SPAN - 1 - i)
        valid = d < tl.where(t < T, D, 0)
        g = tl.load(gate + way * T + t, mask=t < T, other=0.0)
        value = tl.load(values + t * D + d, mask=valid, other=0.0).to(tl.float32)
        if BACK:
            state = (1.0 - g) * (state + scale * value)
        else:
            state = (1.0 - g) * state + g * value
        left = left * (1.0 - g)
    tl.store(ends + (span * 2 + way) * D + d, state, mask=d < D)
    tl.store(through + span * 2 + way, left, mask=block == 0)


@launched
def smooth_carry(ends, through, D, spans, WIDTH: tl.constexpr, AHEAD: tl.constexpr, BACK: tl.constexpr):
    """Turn, in place, the value each span ends in from zeros into the one that enters it. Grid (ceil(D / WIDTH), 2)."""
    way = tl.program_id(1)
    d = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    rising = (way == 0) != BACK
    state = tl.zeros([WIDTH], tl.float32)
    for group in range(0, end_of_range(spans), AHEAD):
        local, left = (), ()
        for k in tl.static_range(AHEAD):
            span = tl.where(rising, group + k, spans - 1 - group - k).to(tl.int64)
            there = d < tl.where(group + k < spans, D, 0)
            local = local + (tl.load(ends + (span * 2 + way) * D + d, mask=there, other=0.0),)
            left = left + (tl.load(through + span * 2 + way, mask=group + k < spans, other=0.0),)
        for k in tl.static_range(AHEAD):
            span = tl.where(rising, group + k, spans - 1 - group - k).to(tl.int64)
            there = d < tl.where(group + k < spans, D, 0)
            tl.store(ends + (span * 2 + way) * D + d, state, mask=there)
            state = local[k] + left[k] * state


@launched
def smooth_emit(
    z, gate, entering, residual, hidden, out,
    T, D, ADD: tl.constexpr, HIDE: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out = (f + h) / 2, with ADD plus residual (T, D), with HIDE 0 instead where hidden (T,) uint8 is set.

    Grid (spans, ceil(D / WIDTH)).
    """
    span = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    state = tl.load(entering + span * 2 * D + d, mask=d < D, other=0.0)
    values, forward = (), ()
    for i in tl.static_range(SPAN):
        t = span * SPAN + i
        g = tl.load(gate + t, mask=t < T, other=0.0)
        value = tl.load(z + t * D + d, mask=d < tl.where(t < T, D, 0), other=0.0).to(tl.float32)
        state = (1.0 - g) * state + g * value
        values = values + (value,)
        forward = forward + (state,)
    state = tl.load(entering + (span * 2 + 1) * D + d, mask=d < D, other=0.0)
    for i in tl.static_range(SPAN):
        t = span * SPAN + SPAN - 1 - i
        g = tl.load(gate + T + t, mask=t < T, other=0.0)
        state = (1.0 - g) * state + g * values[SPAN - 1 - i]
        result = 0.5 * (forward[SPAN - 1 - i] + state)
        if ADD:
            shown = t < T
            if HIDE:
                shown = shown & (tl.load(hidden + t, mask=t < T, other=0) == 0)
            result += tl.load(residual + t * D + d, mask=d < tl.where(shown, D, 0), other=0.0).to(tl.float32)
        tl.store(out + t * D + d, result.to(out.dtype.element_ty), mask=d < tl.where(t < T, D, 0))


@launched
def smooth_retreat(
    grad, z, gate, entering, leaving, hidden, dz, dgate, dresidual,
    T, D, ADD: tl.constexpr, HIDE: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of `smooth_emit`, on the same grid: dz (T, D); dgate (ceil(D / WIDTH), 2, T) float32 partial sums;
    with ADD dresidual (T, D).

    With s_t = df_t + (1 - g_{t+1}) s_{t+1}: dz_t = g_t s_t, dg_t = sum_d s_t (z_t - f_{t-1}).
    """
    span, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = block * WIDTH + tl.arange(0, WIDTH)
    handed = ()
    for way in tl.static_range(2):
        state = tl.load(entering + (span * 2 + way) * D + d, mask=d < D, other=0.0)
        gained = ()  # z_t - f_{t-1}, in the order in which the direction reads
        for i in tl.static_range(SPAN):
            t = span * SPAN + (i if way == 0 else SPAN - 1 - i)
            g = tl.load(gate + way * T + t, mask=t < T, other=0.0)
            value = tl.load(z + t * D + d, mask=d < tl.where(t < T, D, 0), other=0.0).to(tl.float32)
            gained = gained + (value - state,)
            state += g * (value - state)
        rest = tl.load(leaving + (span * 2 + way) * D + d, mask=d < D, other=0.0)
        for i in tl.static_range(SPAN):
            t = span * SPAN + (SPAN - 1 - i if way == 0 else i)
            valid = d < tl.where(t < T, D, 0)
            g = tl.load(gate + way * T + t, mask=t < T, other=0.0)
            slope = tl.load(grad + t * D + d, mask=valid, other=0.0).to(tl.float32)
            s = rest + 0.5 * slope
            rest = (1.0 - g) * s
            tl.store(dgate + (block * 2 + way) * T + t, tl.sum(s * gained[SPAN - 1 - i], axis=0), mask=t < T)
            if way == 0:
                handed = handed + (g * s,)
            else:  # direction 0 went through the span from its end, direction 1 goes from its start
                result = handed[SPAN - 1 - i] + g * s
                tl.store(dz + t * D + d, result.to(dz.dtype.element_ty), mask=valid)
                if ADD:
                    if HIDE:
                        slope = tl.where(tl.load(hidden + t, mask=t < T, other=0) == 0, slope, 0.0)
                    tl.store(dresidual + t * D + d, slope.to(dresidual.dtype.element_ty), mask=valid)


class _Smooth(Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, gate: Tensor, residual: Tensor | None, hidden: Tensor | None,
        span: int, width: int, ahead: int,
    ) -> Tensor:  # fmt: skip
        ctx.sizes = (span, width, ahead)
        added, hides = z if residual is None else residual, gate if hidden is None else hidden
        ctx.constants = {"ADD": residual is not None, "HIDE": hidden is not None, "SPAN": span, "WIDTH": width}
        out = torch.empty(z.shape, dtype=torch.result_type(z, added), device=z.device)
        entering = _entering(z, gate, ctx.sizes, 1.0, back=False)
        grid = (triton.cdiv(z.shape[0], span), triton.cdiv(z.shape[1], width))
        smooth_emit[grid](z, gate, entering, added, hides, out, *z.shape, **ctx.constants, num_warps=1)
        ctx.save_for_backward(z, gate, hides, entering)
        ctx.dtype = added.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, gate, hides, entering = ctx.saved_tensors
        span, width, _ = ctx.sizes
        grad, adds = grads[0].contiguous(), ctx.constants["ADD"]
        leaving = _entering(grad, gate, ctx.sizes, 0.5, back=True)
        grid = (triton.cdiv(z.shape[0], span), triton.cdiv(z.shape[1], width))
        dz, dgate = torch.empty_like(z), torch.empty(grid[1], *gate.shape, dtype=torch.float32, device=z.device)
        dresidual = torch.empty(z.shape, dtype=ctx.dtype, device=z.device) if adds else dz
        smooth_retreat[grid](
            grad, z, gate, entering, leaving, hides, dz, dgate, dresidual, *z.shape, **ctx.constants, num_warps=1
        )
        return dz, dgate.sum(0), dresidual if adds else None, None, None, None, None


def _entering(values: Tensor, gate: Tensor, sizes: tuple[int, int, int], scale: float, *, back: bool) -> Tensor:
    """The value that enters each span, in each direction: (spans, 2, D) float32."""
    span, width, ahead = sizes
    (total, channels), device = values.shape, values.device
    spans, blocks = triton.cdiv(total, span), triton.cdiv(channels, width)
    ends = torch.empty(spans, 2, channels, dtype=torch.float32, device=device)
    through = torch.empty(spans, 2, dtype=torch.float32, device=device)
    smooth_reach[(spans, blocks, 2)](
        values, gate, ends, through, total, channels, scale, SPAN=span, WIDTH=width, BACK=back, num_warps=1
    )
    smooth_carry[(blocks, 2)](ends, through, channels, spans, WIDTH=width, AHEAD=ahead, BACK=back, num_warps=1)
    return ends


def smooth_both_ways(
    z: Tensor, gate: Tensor, residual: Tensor | None = None, hidden: Tensor | None = None, *,
    span: int = 16, width: int = 0, ahead: int = 16,
) -> Tensor:  # fmt: skip
    """(f + h) / 2, the gated smoothing of `kernels_reference.smooth` in each direction, plus a residual.

    Args:
        z: (T, D). gate: (2, T) float32, for each direction, 1 where it enters a sequence.
        residual: (T, D) to add. hidden: (T,) bool, positions where it is not added.
        span, width, ahead: positions and channels of a program, spans whose ends are loaded together. A width of 0
            takes the channels of 128 bytes: one load of a warp, and registers for all positions of a span.

    Returns:
        (T, D), dtype of z, or of the sum.
    """
    if not len(z):
        return z * gate.sum() + (0 if residual is None else residual)
    width = width or 128 // z.element_size()
    residual = None if residual is None else residual.contiguous()
    hidden = None if hidden is None else hidden.contiguous().view(torch.uint8)
    with torch.cuda.device_of(z):  # Triton launches on the current device
        out: Tensor = _Smooth.apply(z.contiguous(), gate.contiguous(), residual, hidden, span, width, ahead)
    return out

"""Triton kernels of the gated smoothing, from both sides in one launch, forward and backward.

As in `kernels_triton_scan.py`, time lies in chunks and in three launches, and direction 1 reads backward. Here a gate
of 1 starts a sequence afresh. What a program holds of a chunk fits its registers: z is read once, nothing is stored but
the values that chunks are entered with, and f and h meet in float32 whatever the precision of z.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels_triton import launched, tl, triton


@launched
def smooth_reach(
    values, gate, ends, through, T, D, scale, CHUNK: tl.constexpr, WIDTH: tl.constexpr, BACK: tl.constexpr
):
    """What each chunk makes of zeros, and the share of what enters it that is left. Grid (chunks, ceil(D/WIDTH), 2).

    values (T, D), gate (2, T); writes ends (chunks, 2, D) and through (chunks, 2) float32. Forward, the recurrence is
    f_t = g_t z_t + (1 - g_t) f_{t-1}; with BACK, of gradients, it is r_t = (1 - g_t) (scale df_t + r_{t+1}).
    """
    chunk, block, way = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    d = block * WIDTH + tl.arange(0, WIDTH)
    state = tl.zeros([WIDTH], tl.float32)
    left = 1.0
    rising = (way == 0) != BACK
    for i in range(CHUNK):
        t = chunk * CHUNK + tl.where(rising, i, CHUNK - 1 - i)
        valid = d < tl.where(t < T, D, 0)
        g = tl.load(gate + way * T + t, mask=t < T, other=0.0)
        value = tl.load(values + t * D + d, mask=valid, other=0.0).to(tl.float32)
        if BACK:
            state = (1.0 - g) * (state + scale * value)
        else:
            state = (1.0 - g) * state + g * value
        left = left * (1.0 - g)
    tl.store(ends + (chunk * 2 + way) * D + d, state, mask=d < D)
    tl.store(through + chunk * 2 + way, left, mask=block == 0)


@launched
def smooth_carry(ends, through, D, chunks, WIDTH: tl.constexpr, AHEAD: tl.constexpr, BACK: tl.constexpr):
    """Turn, in place, what each chunk makes of zeros into what it is entered with. Grid (ceil(D / WIDTH), 2)."""
    way = tl.program_id(1)
    d = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    rising = (way == 0) != BACK
    state = tl.zeros([WIDTH], tl.float32)
    for group in range(0, chunks, AHEAD):
        local, left = (), ()
        for k in tl.static_range(AHEAD):
            chunk = tl.where(rising, group + k, chunks - 1 - group - k).to(tl.int64)
            there = d < tl.where(group + k < chunks, D, 0)
            local = local + (tl.load(ends + (chunk * 2 + way) * D + d, mask=there, other=0.0),)
            left = left + (tl.load(through + chunk * 2 + way, mask=group + k < chunks, other=0.0),)
        for k in tl.static_range(AHEAD):
            chunk = tl.where(rising, group + k, chunks - 1 - group - k).to(tl.int64)
            there = d < tl.where(group + k < chunks, D, 0)
            tl.store(ends + (chunk * 2 + way) * D + d, state, mask=there)
            state = local[k] + left[k] * state


@launched
def smooth_emit(z, gate, entering, out, T, D, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """out = (f + h) / 2. Grid (chunks, ceil(D / WIDTH))."""
    chunk = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    state = tl.load(entering + chunk * 2 * D + d, mask=d < D, other=0.0)
    values, forward = (), ()
    for i in tl.static_range(CHUNK):
        t = chunk * CHUNK + i
        g = tl.load(gate + t, mask=t < T, other=0.0)
        value = tl.load(z + t * D + d, mask=d < tl.where(t < T, D, 0), other=0.0).to(tl.float32)
        state = (1.0 - g) * state + g * value
        values = values + (value,)
        forward = forward + (state,)
    state = tl.load(entering + (chunk * 2 + 1) * D + d, mask=d < D, other=0.0)
    for i in tl.static_range(CHUNK):
        t = chunk * CHUNK + CHUNK - 1 - i
        g = tl.load(gate + T + t, mask=t < T, other=0.0)
        state = (1.0 - g) * state + g * values[CHUNK - 1 - i]
        result = 0.5 * (forward[CHUNK - 1 - i] + state)
        tl.store(out + t * D + d, result.to(out.dtype.element_ty), mask=d < tl.where(t < T, D, 0))


@launched
def smooth_retreat(grad, z, gate, entering, leaving, dz, dgate, T, D, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    """Gradients of `smooth_emit`, on the same grid: dz (T, D); dgate (ceil(D / WIDTH), 2, T) float32 are shares.

    With s_t = df_t + (1 - g_{t+1}) s_{t+1}: dz_t = g_t s_t, dg_t = sum_d s_t (z_t - f_{t-1}).
    """
    chunk, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = block * WIDTH + tl.arange(0, WIDTH)
    handed = ()
    for way in tl.static_range(2):
        state = tl.load(entering + (chunk * 2 + way) * D + d, mask=d < D, other=0.0)
        gained = ()  # z_t - f_{t-1}, in the order in which the direction reads
        for i in tl.static_range(CHUNK):
            t = chunk * CHUNK + (i if way == 0 else CHUNK - 1 - i)
            g = tl.load(gate + way * T + t, mask=t < T, other=0.0)
            value = tl.load(z + t * D + d, mask=d < tl.where(t < T, D, 0), other=0.0).to(tl.float32)
            gained = gained + (value - state,)
            state += g * (value - state)
        rest = tl.load(leaving + (chunk * 2 + way) * D + d, mask=d < D, other=0.0)
        for i in tl.static_range(CHUNK):
            t = chunk * CHUNK + (CHUNK - 1 - i if way == 0 else i)
            valid = d < tl.where(t < T, D, 0)
            g = tl.load(gate + way * T + t, mask=t < T, other=0.0)
            s = rest + 0.5 * tl.load(grad + t * D + d, mask=valid, other=0.0).to(tl.float32)
            rest = (1.0 - g) * s
            tl.store(dgate + (block * 2 + way) * T + t, tl.sum(s * gained[CHUNK - 1 - i], axis=0), mask=t < T)
            if way == 0:
                handed = handed + (g * s,)
            else:  # direction 0 went through the chunk from its end, this one goes from its start
                result = handed[CHUNK - 1 - i] + g * s
                tl.store(dz + t * D + d, result.to(dz.dtype.element_ty), mask=valid)


class _Smooth(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, gate: Tensor, chunk: int, width: int, ahead: int) -> Tensor:
        ctx.sizes = (chunk, width, ahead)
        out = torch.empty_like(z)
        entering = _entering(z, gate, ctx.sizes, 1.0, back=False)
        grid = (triton.cdiv(z.shape[0], chunk), triton.cdiv(z.shape[1], width))
        smooth_emit[grid](z, gate, entering, out, *z.shape, CHUNK=chunk, WIDTH=width, num_warps=1)
        ctx.save_for_backward(z, gate, entering)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, gate, entering = ctx.saved_tensors
        chunk, width, _ = ctx.sizes
        grad = grads[0].contiguous()
        leaving = _entering(grad, gate, ctx.sizes, 0.5, back=True)
        grid = (triton.cdiv(z.shape[0], chunk), triton.cdiv(z.shape[1], width))
        dz, dgate = torch.empty_like(z), torch.empty(grid[1], *gate.shape, dtype=torch.float32, device=z.device)
        smooth_retreat[grid](
            grad, z, gate, entering, leaving, dz, dgate, *z.shape, CHUNK=chunk, WIDTH=width, num_warps=1
        )
        return dz, dgate.sum(0), None, None, None


def _entering(values: Tensor, gate: Tensor, sizes: tuple[int, int, int], scale: float, *, back: bool) -> Tensor:
    """What each chunk is entered with, by either direction: (chunks, 2, D) float32."""
    chunk, width, ahead = sizes
    (total, channels), device = values.shape, values.device
    chunks, blocks = triton.cdiv(total, chunk), triton.cdiv(channels, width)
    ends = torch.empty(chunks, 2, channels, dtype=torch.float32, device=device)
    through = torch.empty(chunks, 2, dtype=torch.float32, device=device)
    smooth_reach[(chunks, blocks, 2)](
        values, gate, ends, through, total, channels, scale, CHUNK=chunk, WIDTH=width, BACK=back, num_warps=1
    )
    smooth_carry[(blocks, 2)](ends, through, channels, chunks, WIDTH=width, AHEAD=ahead, BACK=back, num_warps=1)
    return ends


def smooth_both_ways(z: Tensor, gate: Tensor, *, chunk: int = 16, width: int = 64, ahead: int = 16) -> Tensor:
    """(f + h) / 2, the gated smoothing of `kernels_reference.smooth` in each direction.

    Args:
        z: (T, D). gate: (2, T) float32, for each direction, 1 where it enters a sequence.
        chunk, width, ahead: positions and channels of a program, chunks whose ends are loaded together.

    Returns:
        (T, D), dtype of z.
    """
    if not len(z):
        return z * gate.sum()
    with torch.cuda.device_of(z):  # Triton launches on the current device
        out: Tensor = _Smooth.apply(z.contiguous(), gate.contiguous(), chunk, width, ahead)
    return out

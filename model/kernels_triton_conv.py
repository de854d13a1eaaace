"""Triton kernels of the depthwise convolution with SiLU, causal and anti-causal in one launch, forward and backward.

Names as in `kernels_triton_scan.py`. A position's `step` says how many positions of its sequence a direction reads
before it, hence which taps apply there: no padding between sequences is needed.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels_triton import launched, sigmoid, tl, triton


@triton.jit
def before_silu(x, taps, bias, place, way, t, d, T, D, x_row, TAPS: tl.constexpr):
    """bias + sum_k taps[k] x_{t-k} (x_{t+k} in direction 1), over the k that stay in the sequence; place: step at t."""
    real = d < D
    total = tl.load(bias + way * D + d, mask=real, other=0.0).to(tl.float32)
    for k in tl.static_range(TAPS):
        source = tl.where(way == 0, t - k, t + k)
        here = (place >= k) & real
        value = tl.load(x + source * x_row + d, mask=here, other=0.0).to(tl.float32)
        total += tl.load(taps + (way * TAPS + k) * D + d, mask=real, other=0.0).to(tl.float32) * value
    return total


@launched
def conv_forward(x, taps, bias, step, out, T, D, x_row, TAPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """out (2, T, D) from x (T, D), taps (2, TAPS, D), bias (2, D). Grid (ceil(T / ROWS), ceil(D / WIDTH))."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    for way in tl.static_range(2):
        place = tl.load(step + way * T + t, mask=t < T, other=-1)
        total = before_silu(x, taps, bias, place, way, t, d, T, D, x_row, TAPS)
        result = total * sigmoid(total)
        tl.store(out + (way * T + t) * D + d, result.to(out.dtype.element_ty), mask=(t < T) & (d < D))


@launched
def conv_backward(
    grad, x, taps, bias, step, dx, shared,
    T, D, x_row, TAPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of `conv_forward`, on the same grid: dx (T, D); shared (ceil(T / ROWS), 2, TAPS + 1, D) float32 are
    each program's part of the gradients of taps and bias. The value before the SiLU is recomputed for every tap."""
    tile = tl.program_id(0).to(tl.int64)
    t = tile * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    real = d < D
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    for way in tl.static_range(2):
        for k in tl.static_range(TAPS):
            reader = t + k if way == 0 else t - k  # the position whose tap k reads t
            place = tl.load(step + way * T + reader, mask=(reader >= 0) & (reader < T), other=-1)
            place = tl.where(t < T, place, -1)
            before = before_silu(x, taps, bias, place, way, reader, d, T, D, x_row, TAPS)
            opened = sigmoid(before)
            dy = tl.load(grad + (way * T + reader) * D + d, mask=(place >= k) & real, other=0.0).to(tl.float32)
            dy *= opened * (1.0 + before * (1.0 - opened))
            total += tl.load(taps + (way * TAPS + k) * D + d, mask=real, other=0.0).to(tl.float32) * dy
            if k == 0:
                into = shared + (tile * 2 + way) * (TAPS + 1) * D + d
                for j in tl.static_range(TAPS):
                    source = t - j if way == 0 else t + j
                    value = tl.load(x + source * x_row + d, mask=(place >= j) & real, other=0.0).to(tl.float32)
                    tl.store(into + j * D, tl.sum(dy * value, axis=0, keep_dims=True), mask=real)
                tl.store(into + TAPS * D, tl.sum(dy, axis=0, keep_dims=True), mask=real)
    tl.store(dx + t * D + d, total.to(dx.dtype.element_ty), mask=(t < T) & real)


class _ConvSiLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, step: Tensor, rows: int, width: int) -> Tensor:
        total, channels = x.shape
        taps = weight.detach().flip(-1).transpose(1, 2).contiguous()
        out = torch.empty(2, total, channels, dtype=x.dtype, device=x.device)
        sizes = {"TAPS": taps.shape[1], "ROWS": rows, "WIDTH": width}
        grid = (triton.cdiv(total, rows), triton.cdiv(channels, width))
        conv_forward[grid](x, taps, bias, step, out, total, channels, x.stride(0), **sizes)
        ctx.save_for_backward(x, taps, bias, step)
        ctx.grid, ctx.sizes, ctx.weight_dtype = grid, sizes, weight.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, bias, step = ctx.saved_tensors
        total, channels = x.shape
        dx = torch.empty(total, channels, dtype=x.dtype, device=x.device)
        shape = (ctx.grid[0], 2, taps.shape[1] + 1, channels)
        shared = torch.empty(shape, dtype=torch.float32, device=x.device)
        grad = grads[0].contiguous()
        conv_backward[ctx.grid](grad, x, taps, bias, step, dx, shared, total, channels, x.stride(0), **ctx.sizes)
        sums = shared.sum(0)
        dweight = sums[:, :-1].transpose(1, 2).flip(-1).to(ctx.weight_dtype)
        return dx, dweight, sums[:, -1].to(bias.dtype), None, None, None


def conv_silu_both_ways(
    x: Tensor, weight: Tensor, bias: Tensor, step: Tensor, *, rows: int = 16, width: int = 128
) -> Tensor:
    """`kernels_reference.conv_silu` in each direction, reading x once.

    Args:
        x: (T, Dm), which may be a slice of a wider tensor. weight: (2, Dm, W). bias: (2, Dm).
        step: (2, T) int32, `Packing.steps`.
        rows, width: positions and channels of a program, powers of two.

    Returns:
        (2, T, Dm), dtype of x; sums are float32.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    with torch.cuda.device_of(x):  # Triton launches on the current device
        y: Tensor = _ConvSiLU.apply(x, weight, bias.contiguous(), step, rows, width)
    return y

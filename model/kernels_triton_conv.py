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
def position(x, t, d, T, D, x_row):
    """x_t in float32; zeros where there is no position t."""
    return tl.load(x + t * x_row + d, mask=d < tl.where((t >= 0) & (t < T), D, 0), other=0.0).to(tl.float32)


@triton.jit
def positions_before(x, t, d, T, D, x_row, TAPS: tl.constexpr):
    """x_{t-1}, ..., x_{t-TAPS+1}."""
    near = ()
    for k in tl.static_range(TAPS - 1):
        near = near + (position(x, t - 1 - k, d, T, D, x_row),)
    return near


@triton.jit
def weights_of(rows, way, d, D, TAPS: tl.constexpr):
    """The taps of a direction, the one for its newest position first, then its bias."""
    weights = ()
    for k in tl.static_range(TAPS):
        weights = weights + (tl.load(rows + (way * TAPS + TAPS - 1 - k) * D + d, mask=d < D, other=0.0),)
    return weights + (tl.load(rows + (2 * TAPS + way) * D + d, mask=d < D, other=0.0),)


@triton.jit
def turned(values, COUNT: tl.constexpr):
    """The values from the last to the first."""
    result = ()
    for k in tl.static_range(COUNT):
        result = (values[k],) + result
    return result


@triton.jit
def before_silu(read, weights, place, TAPS: tl.constexpr):
    """bias + sum_k taps[k] read[k], over the k that stay in the sequence: k <= place, the step of the position."""
    total = weights[TAPS]
    for k in tl.static_range(TAPS):
        total += weights[k] * tl.where(place >= k, read[k], 0.0)
    return total


@triton.jit
def convolved(read, weights, step, way, t, T, TAPS: tl.constexpr):
    """out_t of a direction whose tap k reads read[k]."""
    place = tl.load(step + way * T + t, mask=t < T, other=-1)
    total = before_silu(read, weights, place, TAPS)
    return total * sigmoid(total)


@triton.jit
def write(values, target, way, start, d, T, D, COUNT: tl.constexpr):
    """Write the values of COUNT positions of a direction, from `start` on.

    Kernels write after their last load, because the compiler cannot move a load to before a store.
    """
    for i in tl.static_range(COUNT):
        t = start + i
        tl.store(target + (way * T + t) * D + d, values[i], mask=d < tl.where(t < T, D, 0))


@launched
def conv_forward(x, rows, step, out, T, D, x_row, TAPS: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr):
    """out (2, T, D) from x (T, D) and the rows of `conv_rows`. Grid (ceil(T / SPAN), ceil(D / WIDTH)).

    Of the last TAPS positions that were loaded, the forward direction writes the last and the backward the first.
    """
    start = tl.program_id(0).to(tl.int64) * SPAN
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    forward, backward = weights_of(rows, 0, d, D, TAPS), weights_of(rows, 1, d, D, TAPS)
    near = positions_before(x, start, d, T, D, x_row, TAPS)
    ahead, behind = (), ()
    for i in tl.static_range(SPAN + TAPS - 1):
        t = start + i
        near = (position(x, t, d, T, D, x_row),) + near[: TAPS - 1]
        if i < SPAN:
            y = convolved(near, forward, step, 0, t, T, TAPS)
            ahead = ahead + (y.to(out.dtype.element_ty),)
        if i >= TAPS - 1:
            y = convolved(turned(near, TAPS), backward, step, 1, t - TAPS + 1, T, TAPS)
            behind = behind + (y.to(out.dtype.element_ty),)
    write(ahead, out, 0, start, d, T, D, SPAN)
    write(behind, out, 1, start, d, T, D, SPAN)


@triton.jit
def return_position(
    read, into, sums, weights, grad, step, way, t, d, T, D, TAPS: tl.constexpr, OWN: tl.constexpr
):  # fmt: skip
    """Add the part of out_t of a direction to the gradients: `into` of `read`, and, if OWN, `sums` of `weights`."""
    there = (t >= 0) & (t < T)
    place = tl.load(step + way * T + t, mask=there, other=-1)
    before = before_silu(read, weights, place, TAPS)
    opened = sigmoid(before)
    dy = tl.load(grad + (way * T + t) * D + d, mask=d < tl.where(there, D, 0), other=0.0).to(tl.float32)
    dy *= opened * (1.0 + before * (1.0 - opened))
    new_into, new_sums = (), ()
    for k in tl.static_range(TAPS):
        new_into = new_into + (into[k] + tl.where(place >= k, weights[k] * dy, 0.0),)
        new_sums = new_sums + (sums[k] + dy * tl.where(place >= k, read[k], 0.0),)
    new_sums = new_sums + (sums[TAPS] + dy,)
    return new_into, new_sums if OWN else sums


@launched
def conv_backward(
    grad, x, rows, step, dx, shared,
    T, D, x_row, TAPS: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of `conv_forward`, on the same grid: dx (T, D); shared (ceil(T / SPAN), 2 TAPS + 2, D) float32 are
    each program's part of the gradients of the rows.

    A program also reads TAPS - 1 gradients of each neighbour, because their positions read its own.
    """
    span = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    forward, backward = weights_of(rows, 0, d, D, TAPS), weights_of(rows, 1, d, D, TAPS)
    near = positions_before(x, span * SPAN, d, T, D, x_row, TAPS)
    zeros = tl.zeros([WIDTH], tl.float32)
    into, of_forward, of_backward, result = (), (zeros,), (zeros,), ()
    for _ in tl.static_range(TAPS):
        into, of_forward, of_backward = into + (zeros,), of_forward + (zeros,), of_backward + (zeros,)
    for i in tl.static_range(SPAN + TAPS - 1):
        t = span * SPAN + i
        last = t - TAPS + 1  # nothing after t reads this position
        near, into = (position(x, t, d, T, D, x_row),) + near[: TAPS - 1], (zeros,) + into[: TAPS - 1]
        into, of_forward = return_position(
            near, into, of_forward, forward, grad, step, 0, t, d, T, D, TAPS, i < SPAN
        )  # fmt: skip
        into, of_backward = return_position(
            turned(near, TAPS), turned(into, TAPS), of_backward, backward, grad, step, 1, last, d, T, D, TAPS,
            i >= TAPS - 1,
        )  # fmt: skip
        into = turned(into, TAPS)
        if i >= TAPS - 1:
            result = result + (into[TAPS - 1].to(dx.dtype.element_ty),)
    write(result, dx, 0, span * SPAN, d, T, D, SPAN)
    for way in tl.static_range(2):
        for k in tl.static_range(TAPS + 1):
            sums = of_forward[k] if way == 0 else of_backward[k]
            row = way * TAPS + TAPS - 1 - k if k < TAPS else 2 * TAPS + way
            tl.store(shared + (span * (2 * TAPS + 2) + row) * D + d, sums, mask=d < D)


class _ConvSiLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, step: Tensor, span: int, width: int) -> Tensor:
        total, channels = x.shape
        out = torch.empty(2, total, channels, dtype=x.dtype, device=x.device)
        sizes = {"TAPS": rows.shape[0] // 2 - 1, "SPAN": span, "WIDTH": width, "num_warps": 1}
        grid = (triton.cdiv(total, span), triton.cdiv(channels, width))
        conv_forward[grid](x, rows, step, out, total, channels, x.stride(0), **sizes)
        ctx.save_for_backward(x, rows, step)
        ctx.grid, ctx.sizes = grid, sizes
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, rows, step = ctx.saved_tensors
        total, channels = x.shape
        dx = torch.empty(total, channels, dtype=x.dtype, device=x.device)
        shared = torch.empty(ctx.grid[0], *rows.shape, dtype=torch.float32, device=x.device)
        grad = grads[0].contiguous()
        conv_backward[ctx.grid](grad, x, rows, step, dx, shared, total, channels, x.stride(0), **ctx.sizes)
        return dx, shared.sum(0), None, None, None


def conv_silu_both_ways(x: Tensor, rows: Tensor, step: Tensor, *, span: int = 16, width: int = 64) -> Tensor:
    """`kernels_reference.conv_silu` in each direction, reading x once.

    Args:
        x: (T, Dm), which may be a slice of a wider tensor.
        rows: (2 W + 2, Dm) float32, weight and bias as `conv_rows` lays them out.
        step: (2, T) int32, `Packing.steps`.
        span, width: positions and channels of a program; width is a power of two.

    Returns:
        (2, T, Dm), dtype of x; sums are float32.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    with torch.cuda.device_of(x):  # Triton launches on the current device
        y: Tensor = _ConvSiLU.apply(x, rows.contiguous(), step, span, width)
    return y

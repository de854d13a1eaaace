"""Triton kernels of the depthwise convolution with SiLU, causal and anti-causal in one launch, forward and backward.

Names as in `kernels_triton_scan.py`. A position's `step` says how many positions of its sequence a direction reads
before it, hence which taps apply there: no padding between sequences is needed. A program takes PARTS times SPAN
positions of WIDTH channels. Most programs see no border of a sequence and no end of the data: they are PLAIN, and
compute no mask. Inside a part, `i` is a position counted from its first.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels_triton import channels, launched, opening, tl, triton, widened


@triton.jit
def has_no_border(step, start, T, SPAN: tl.constexpr, TAPS: tl.constexpr, POWER: tl.constexpr):
    """Whether all taps apply at SPAN positions from `start` on, and at those beside them that read them. POWER is a
    power of two, at least SPAN + TAPS.
    """
    i = tl.arange(0, POWER)
    inside = (start >= TAPS) & (start + SPAN + TAPS <= T)
    asked = i < tl.where(inside, SPAN + TAPS, 0)
    forward = tl.load(step + start + i, mask=asked, other=TAPS)
    backward = tl.load(step + T + start - TAPS + i, mask=asked, other=TAPS)
    return inside & (tl.min(tl.minimum(forward, backward), axis=0) >= TAPS - 1)


@triton.jit
def position(x, i, start, d, T, D: tl.constexpr, x_row: tl.constexpr, PLAIN: tl.constexpr):
    """x of position i in float32; zeros where there is no such position. x points to the first of the part."""
    if PLAIN:
        return widened(tl.load(x + (i * x_row + d)))
    there = d < tl.where((start + i >= 0) & (start + i < T), D, 0)  # not x_row, which is less where rows overlap
    return widened(tl.load(x + (i * x_row + d), mask=there, other=0.0))


@triton.jit
def positions_before(x, start, d, T, D: tl.constexpr, x_row: tl.constexpr, TAPS: tl.constexpr, PLAIN: tl.constexpr):
    """x of positions -1, ..., 1 - TAPS."""
    near = ()
    for k in tl.static_range(TAPS - 1):
        near = near + (position(x, -1 - k, start, d, T, D, x_row, PLAIN),)
    return near


@triton.jit
def weights_of(rows, way, d, D: tl.constexpr, TAPS: tl.constexpr):
    """The taps of a direction, the one for its newest position first, then its bias."""
    weights = ()
    for k in tl.static_range(TAPS):
        weights = weights + (tl.load(rows + (way * TAPS + TAPS - 1 - k) * D + d),)
    return weights + (tl.load(rows + (2 * TAPS + way) * D + d),)


@triton.jit
def turned(values, COUNT: tl.constexpr):
    """The values from the last to the first."""
    result = ()
    for k in tl.static_range(COUNT):
        result = (values[k],) + result
    return result


@triton.jit
def step_of(step, t, T, PLAIN: tl.constexpr):
    """The step of position t, or -1 where there is none. `step` points to those of a direction."""
    if PLAIN:
        return 0  # nothing reads it
    return tl.load(step + t, mask=(t >= 0) & (t < T), other=-1)


@triton.jit
def shown(values, index, TAPS: tl.constexpr, PLAIN: tl.constexpr):
    """values[k] where tap k stays in the sequence, k <= index, else 0."""
    if PLAIN:
        return values
    result = ()
    for k in tl.static_range(TAPS):
        result = result + (tl.where(index >= k, values[k], 0.0),)
    return result


@triton.jit
def before_silu(read, weights, TAPS: tl.constexpr):
    """bias + sum_k taps[k] read[k]."""
    total = weights[TAPS]
    for k in tl.static_range(TAPS):
        total += weights[k] * read[k]
    return total


@triton.jit
def convolved(read, weights, index, TAPS: tl.constexpr, PLAIN: tl.constexpr):
    """The result of a direction whose tap k reads read[k]."""
    total = before_silu(shown(read, index, TAPS, PLAIN), weights, TAPS)
    return total * opening(total)


@triton.jit
def write(
    values, target, start, d, real, T, D: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr, PLAIN: tl.constexpr
):  # fmt: skip
    """Write the values of COUNT positions from `start` on.

    Kernels write after the last load of a part, because the compiler cannot move a load to before a store.
    """
    target += start * D
    for i in tl.static_range(COUNT):
        if not PLAIN:
            tl.store(target + (i * D + d), values[i], mask=real & (d < tl.where(start + i < T, D, 0)))
        elif D % WIDTH:
            tl.store(target + (i * D + d), values[i], mask=real)
        else:
            tl.store(target + (i * D + d), values[i])


@triton.jit
def forward_part(
    x, step, out, forward, backward, start, d, real, T, D: tl.constexpr, x_row: tl.constexpr,
    TAPS: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr, PLAIN: tl.constexpr,
):  # fmt: skip
    """`conv_forward` of SPAN positions. Of the last TAPS positions that were loaded, the forward direction writes the
    last and the backward the first.
    """
    x += start * x_row
    near = positions_before(x, start, d, T, D, x_row, TAPS, PLAIN)
    ahead, behind = (), ()
    for i in tl.static_range(SPAN + TAPS - 1):
        near = (position(x, i, start, d, T, D, x_row, PLAIN),) + near[: TAPS - 1]
        if i < SPAN:
            y = convolved(near, forward, step_of(step, start + i, T, PLAIN), TAPS, PLAIN)
            ahead = ahead + (y.to(out.dtype.element_ty),)
        if i >= TAPS - 1:
            index = step_of(step + T, start + i - TAPS + 1, T, PLAIN)
            y = convolved(turned(near, TAPS), backward, index, TAPS, PLAIN)
            behind = behind + (y.to(out.dtype.element_ty),)
    write(ahead, out, start, d, real, T, D, SPAN, WIDTH, PLAIN)
    write(behind, out + T.to(tl.int64) * D, start, d, real, T, D, SPAN, WIDTH, PLAIN)


@launched
def conv_forward(
    x, rows, step, out, T, D: tl.constexpr, x_row: tl.constexpr,
    TAPS: tl.constexpr, SPAN: tl.constexpr, PARTS: tl.constexpr, POWER: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out (2, T, D) from x (T, D) and the rows of `conv_rows`. Grid (ceil(T / (PARTS SPAN)), ceil(D / WIDTH))."""
    first = tl.program_id(0).to(tl.int64) * (PARTS * SPAN)
    d, real = channels(tl.program_id(1), D, WIDTH)
    forward, backward = weights_of(rows, 0, d, D, TAPS), weights_of(rows, 1, d, D, TAPS)
    if has_no_border(step, first, T, PARTS * SPAN, TAPS, POWER):
        for part in range(PARTS):
            start = first + part * SPAN
            forward_part(x, step, out, forward, backward, start, d, real, T, D, x_row, TAPS, SPAN, WIDTH, True)
    else:
        for part in range(PARTS):
            start = first + part * SPAN
            forward_part(x, step, out, forward, backward, start, d, real, T, D, x_row, TAPS, SPAN, WIDTH, False)


@triton.jit
def return_position(
    read, into, sums, weights, grad, index, i, start, d, real, T, D: tl.constexpr,
    TAPS: tl.constexpr, OWN: tl.constexpr, PLAIN: tl.constexpr,
):  # fmt: skip
    """Add the part of a direction's result at i to the gradients: `into` of `read`, and, if OWN, `sums` of `weights`.

    `grad` points to the gradient of the direction's result at the first position of the part.
    """
    read, taps = shown(read, index, TAPS, PLAIN), shown(weights, index, TAPS, PLAIN)
    before = before_silu(read, weights, TAPS)
    opened = opening(before)
    dy = position(grad, i, start, d, T, D, D, PLAIN)
    dy *= opened * (1.0 + before * (1.0 - opened))
    new_into, new_sums = (), ()
    for k in tl.static_range(TAPS):
        new_into = new_into + (into[k] + taps[k] * dy,)
        new_sums = new_sums + (sums[k] + read[k] * dy,)
    new_sums = new_sums + (sums[TAPS] + dy,)
    return new_into, new_sums if OWN else sums


@triton.jit
def backward_part(
    grad, x, step, dx, forward, backward, of_forward, of_backward, start, d, real, T, D: tl.constexpr,
    x_row: tl.constexpr, TAPS: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr, PLAIN: tl.constexpr,
):  # fmt: skip
    """`conv_backward` of SPAN positions: the gradients of the weights with those of these positions added.

    It also reads TAPS - 1 gradients on either side, because their positions read its own.
    """
    x += start * x_row
    of_ahead, of_behind = grad + start * D, grad + (start + T) * D
    near = positions_before(x, start, d, T, D, x_row, TAPS, PLAIN)
    zeros = tl.zeros([WIDTH], tl.float32)
    into, result = (), ()
    for _ in tl.static_range(TAPS):
        into = into + (zeros,)
    for i in tl.static_range(SPAN + TAPS - 1):
        last = i - TAPS + 1  # nothing after i reads this position
        near, into = (position(x, i, start, d, T, D, x_row, PLAIN),) + near[: TAPS - 1], (zeros,) + into[: TAPS - 1]
        into, of_forward = return_position(
            near, into, of_forward, forward, of_ahead, step_of(step, start + i, T, PLAIN), i, start, d, real, T, D,
            TAPS, i < SPAN, PLAIN,
        )  # fmt: skip
        into, of_backward = return_position(
            turned(near, TAPS), turned(into, TAPS), of_backward, backward, of_behind,
            step_of(step + T, start + last, T, PLAIN), last, start, d, real, T, D, TAPS, i >= TAPS - 1, PLAIN,
        )  # fmt: skip
        into = turned(into, TAPS)
        if i >= TAPS - 1:
            result = result + (into[TAPS - 1].to(dx.dtype.element_ty),)
    write(result, dx, start, d, real, T, D, SPAN, WIDTH, PLAIN)
    return of_forward, of_backward


@triton.jit
def write_sums(sums, shared, way, d, real, D: tl.constexpr, TAPS: tl.constexpr):
    """The gradients of the weights of a direction, in the order of `conv_rows`."""
    for k in tl.static_range(TAPS + 1):
        row = way * TAPS + TAPS - 1 - k if k < TAPS else 2 * TAPS + way
        tl.store(shared + row * D + d, sums[k], mask=real)


@launched
def conv_backward(
    grad, x, rows, step, dx, shared, T, D: tl.constexpr, x_row: tl.constexpr,
    TAPS: tl.constexpr, SPAN: tl.constexpr, PARTS: tl.constexpr, POWER: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of `conv_forward`, on the same grid: dx (T, D); shared (programs, 2 TAPS + 2, D) float32 are each
    program's part of the gradients of the rows.
    """
    first = tl.program_id(0).to(tl.int64) * (PARTS * SPAN)
    d, real = channels(tl.program_id(1), D, WIDTH)
    forward, backward = weights_of(rows, 0, d, D, TAPS), weights_of(rows, 1, d, D, TAPS)
    shared += tl.program_id(0).to(tl.int64) * ((2 * TAPS + 2) * D)
    of_forward = (tl.zeros([WIDTH], tl.float32),)
    for _ in tl.static_range(TAPS):
        of_forward = of_forward + (tl.zeros([WIDTH], tl.float32),)
    of_backward = of_forward
    if has_no_border(step, first, T, PARTS * SPAN, TAPS, POWER):
        for part in range(PARTS):
            of_forward, of_backward = backward_part(
                grad, x, step, dx, forward, backward, of_forward, of_backward, first + part * SPAN, d, real, T, D,
                x_row, TAPS, SPAN, WIDTH, True,
            )  # fmt: skip
        write_sums(of_forward, shared, 0, d, real, D, TAPS)
        write_sums(of_backward, shared, 1, d, real, D, TAPS)
    else:
        for part in range(PARTS):
            of_forward, of_backward = backward_part(
                grad, x, step, dx, forward, backward, of_forward, of_backward, first + part * SPAN, d, real, T, D,
                x_row, TAPS, SPAN, WIDTH, False,
            )  # fmt: skip
        write_sums(of_forward, shared, 0, d, real, D, TAPS)
        write_sums(of_backward, shared, 1, d, real, D, TAPS)


class _ConvSiLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, step: Tensor, span: int, parts: int, width: int) -> Tensor:
        total, channels = x.shape
        out = torch.empty(2, total, channels, dtype=x.dtype, device=x.device)
        taps = rows.shape[0] // 2 - 1
        ctx.sizes = {
            "D": channels, "x_row": x.stride(0), "TAPS": taps, "SPAN": span, "PARTS": parts,
            "POWER": triton.next_power_of_2(span * parts + taps), "WIDTH": width, "num_warps": 1,
        }  # fmt: skip
        ctx.grid = (triton.cdiv(total, span * parts), triton.cdiv(channels, width))
        conv_forward[ctx.grid](x, rows, step, out, total, **ctx.sizes)
        ctx.save_for_backward(x, rows, step)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, rows, step = ctx.saved_tensors
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        shared = torch.empty(ctx.grid[0], *rows.shape, dtype=torch.float32, device=x.device)
        conv_backward[ctx.grid](grads[0].contiguous(), x, rows, step, dx, shared, len(x), **ctx.sizes)
        return dx, shared.sum(0), None, None, None, None


def conv_silu_both_ways(
    x: Tensor, rows: Tensor, step: Tensor, *, span: int = 16, parts: int | None = None, width: int = 64
) -> Tensor:
    """`kernels_reference.conv_silu` in each direction, reading x once.

    Args:
        x: (T, Dm), which may be a slice of a wider tensor.
        rows: (2 W + 2, Dm) float32, weight and bias as `conv_rows` lays them out.
        step: (2, T) int32, `Packing.steps`.
        span, width: positions and channels of a part; width is a power of two.
        parts: of a program. None chooses by T: fewer, larger programs add up more of the gradients of the weights
            themselves, and few positions would leave the GPU idle.

    Returns:
        (2, T, Dm), dtype of x; sums are float32.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    parts = parts or (8 if len(x) >= 32_768 else 1)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        y: Tensor = _ConvSiLU.apply(x, rows.contiguous(), step, span, parts, width)
    return y

"""Triton kernels of LayerNorm and RMSNorm together with the residual sum before them, forward and backward.

Plain torch reads and writes the residual stream for the sum, again for the norm, and in the backward pass once more to
add the gradients of the two uses of the sum. Here each pass does so once. A program holds whole rows in registers, so
the backward pass computes mean and scale again instead of storing them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels_triton import launched, tl, triton


@triton.jit
def standardised(x, there, D, eps, CENTRED: tl.constexpr):
    """Rows (., WIDTH) divided by their root mean square, with CENTRED after subtracting the mean; and the factor."""
    if CENTRED:
        x = tl.where(there, x - (tl.sum(x, axis=1) / D)[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / D + eps)
    return x * factor[:, None], factor


@launched
def norm_forward(
    x, branch, weight, total, normed, T, D, eps,
    SUM: tl.constexpr, CENTRED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """total = x + branch (with SUM; else x is the total), normed = norm(total) weight. Grid (ceil(T / ROWS),).

    x, branch, total, normed (T, D); weight (D,). The norm is that of the total as rounded to its precision.
    """
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    there = (t < T) & (d < D)
    value = tl.load(x + t * D + d, mask=there, other=0.0).to(tl.float32)
    if SUM:
        value += tl.load(branch + t * D + d, mask=there, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + t * D + d, rounded, mask=there)
        value = rounded.to(tl.float32)
    w = tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
    result, _ = standardised(value, there, D, eps, CENTRED)
    tl.store(normed + t * D + d, (result * w).to(normed.dtype.element_ty), mask=there)


@launched
def norm_backward(
    dtotal, dnormed, total, weight, dx, dbranch, shared, T, D, eps,
    TWICE: tl.constexpr, CENTRED: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of `norm_forward`: dx (T, D), which is also that of the branch, written again to dbranch with TWICE,
    where the branch has another precision. Grid (ceil(T / (ROWS TILES)),).

    shared (programs, D) float32 are each program's part of the gradient of the weight.
    """
    program = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)[None, :]
    w = tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
    of_weight = tl.zeros([ROWS, WIDTH], tl.float32)
    for tile in range(TILES):
        t = (program * TILES + tile) * ROWS + tl.arange(0, ROWS)[:, None]
        there = (t < T) & (d < D)
        value = tl.load(total + t * D + d, mask=there, other=0.0).to(tl.float32)
        dy = tl.load(dnormed + t * D + d, mask=there, other=0.0).to(tl.float32)
        result, factor = standardised(value, there, D, eps, CENTRED)
        of_weight += dy * result
        dy *= w
        slope = dy - result * (tl.sum(dy * result, axis=1) / D)[:, None]
        if CENTRED:
            slope -= (tl.sum(dy, axis=1) / D)[:, None]
        slope = slope * factor[:, None] + tl.load(dtotal + t * D + d, mask=there, other=0.0).to(tl.float32)
        tl.store(dx + t * D + d, slope.to(dx.dtype.element_ty), mask=there)
        if TWICE:
            tl.store(dbranch + t * D + d, slope.to(dbranch.dtype.element_ty), mask=there)
    tl.store(shared + program * D + d, tl.sum(of_weight, axis=0)[None, :], mask=d < D)


class _SumAndNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor,
        eps: float, centred: bool, dtype: torch.dtype, rows: int, tiles: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        count, width = x.shape
        normed = torch.empty(x.shape, dtype=dtype, device=x.device)
        total = x if branch is None else torch.empty(x.shape, dtype=torch.result_type(x, branch), device=x.device)
        ctx.sizes = {"CENTRED": centred, "ROWS": rows, "WIDTH": triton.next_power_of_2(width)}
        norm_forward[(triton.cdiv(count, rows),)](
            x, x if branch is None else branch, weight, total, normed, count, width, eps,
            SUM=branch is not None, **ctx.sizes,
        )  # fmt: skip
        ctx.save_for_backward(total, weight)
        ctx.eps, ctx.tiles, ctx.dtypes = eps, tiles, (x.dtype, branch.dtype if branch is not None else x.dtype)
        ctx.branched = branch is not None
        return (total if branch is not None else x.view_as(x)), normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total, weight = ctx.saved_tensors
        dtotal, dnormed = (grad.contiguous() for grad in grads)
        count, width = total.shape
        programs = triton.cdiv(count, ctx.sizes["ROWS"] * ctx.tiles)
        dx = torch.empty(total.shape, dtype=ctx.dtypes[0], device=total.device)
        twice = ctx.dtypes[0] != ctx.dtypes[1]
        dbranch = torch.empty(total.shape, dtype=ctx.dtypes[1], device=total.device) if twice else dx
        shared = torch.empty(programs, width, dtype=torch.float32, device=total.device)
        norm_backward[(programs,)](
            dtotal, dnormed, total, weight, dx, dbranch, shared, count, width, ctx.eps,
            TWICE=twice, TILES=ctx.tiles, **ctx.sizes,
        )  # fmt: skip
        dweight = shared.sum(0, dtype=weight.dtype)
        return dx, dbranch if ctx.branched else None, dweight, None, None, None, None, None


def sum_and_norm(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    eps: float,
    *,
    centred: bool,
    dtype: torch.dtype | None = None,
    rows: int = 1,
    tiles: int = 32,
) -> tuple[Tensor, Tensor]:
    """The residual stream after a branch, and its norm times `weight`.

    Args:
        x: (T, D). branch: (T, D) to add to x, or None. weight: (D,).
        centred: LayerNorm without bias; else RMSNorm.
        dtype: of the norm; default: that of the sum. Whatever casts it before use can ask for that here.
        rows, tiles: rows that a program holds, and how many times in the backward pass.

    Returns:
        x + branch (T, D); the norm (T, D). Both are computed in float32.
    """
    kind = x.dtype if branch is None else torch.result_type(x, branch)
    if not x.numel():
        total = x if branch is None else x + branch
        return total, (total * weight).to(dtype or kind)
    x, branch = x.contiguous(), None if branch is None else branch.contiguous()
    with torch.cuda.device_of(x):  # Triton launches on the current device
        total, normed = _SumAndNorm.apply(x, branch, weight.contiguous(), eps, centred, dtype or kind, rows, tiles)
    return total, normed

"""Triton kernels that turn queries and keys by their positions (RoPE), forward and backward.

Plain torch computes in float32 and writes every intermediate result. These kernels read and write each number once, in
the precision of the projections, and compute in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels_triton import launched, tl, triton


@triton.jit
def pairs(rows, T, heads, HALF, COUNT: tl.constexpr, PADDED: tl.constexpr):
    """Position, head and channel of COUNT heads, and which of them exist; `heads` is the number at each position."""
    r = rows * COUNT + tl.arange(0, COUNT)[:, None]
    t = r // heads
    i = tl.arange(0, PADDED)[None, :]
    return t, (r - t * heads).to(tl.int32), i, i < tl.where(t < T, HALF, 0)


@launched
def turn(qkv, cos, sin, T, heads, HALF: tl.constexpr, PADDED: tl.constexpr, COUNT: tl.constexpr):
    """Turn, in place, queries and keys of qkv (T, 3 heads, 2 HALF). cos, sin (T, HALF) float32.

    Grid (ceil(2 heads T / COUNT),). Channel i of a head forms a pair with channel i + HALF.
    """
    t, head, i, there = pairs(tl.program_id(0).to(tl.int64), T, 2 * heads, HALF, COUNT, PADDED)
    c, s = tl.load(cos + t * HALF + i, mask=there, other=0.0), tl.load(sin + t * HALF + i, mask=there, other=0.0)
    place = qkv + (t * 3 * heads + head) * 2 * HALF + i
    first = tl.load(place, mask=there, other=0.0).to(tl.float32)
    second = tl.load(place + HALF, mask=there, other=0.0).to(tl.float32)
    tl.store(place, (first * c - second * s).to(qkv.dtype.element_ty), mask=there)
    tl.store(place + HALF, (second * c + first * s).to(qkv.dtype.element_ty), mask=there)


@launched
def turn_back(
    dq, dk, dv, cos, sin, dqkv, T, heads, HALF: tl.constexpr, PADDED: tl.constexpr, COUNT: tl.constexpr
):  # fmt: skip
    """The gradient of the projections (T, 3 heads, 2 HALF) from those of `turn` and of the values, each (T, heads, .).

    Grid (ceil(3 heads T / COUNT),).
    """
    t, head, i, there = pairs(tl.program_id(0).to(tl.int64), T, 3 * heads, HALF, COUNT, PADDED)
    c, s = tl.load(cos + t * HALF + i, mask=there, other=0.0), tl.load(sin + t * HALF + i, mask=there, other=0.0)
    of_query, of_value = head < heads, head >= 2 * heads
    c, s = tl.where(of_value, 1.0, c), tl.where(of_value, 0.0, s)
    own = head - tl.where(of_value, 2 * heads, tl.where(of_query, 0, heads))
    place = (t * heads + own) * 2 * HALF + i
    source = tl.where(of_query, dq + place, tl.where(of_value, dv + place, dk + place))
    first = tl.load(source, mask=there, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=there, other=0.0).to(tl.float32)
    target = dqkv + (t * 3 * heads + head) * 2 * HALF + i
    tl.store(target, (first * c + second * s).to(dqkv.dtype.element_ty), mask=there)
    tl.store(target + HALF, (second * c - first * s).to(dqkv.dtype.element_ty), mask=there)


class _Turned(Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.heads, ctx.sizes = heads, _sizes(cos.shape[-1], count)
        turn[(triton.cdiv(2 * heads * len(qkv), count),)](qkv, cos, sin, len(qkv), heads, **ctx.sizes)
        q, k, v = qkv.detach().unflatten(-1, (3, heads, -1)).unbind(1)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        dq, dk, dv = (grad.contiguous() for grad in grads)
        dqkv = torch.empty(len(dq), 3 * dq[0].numel(), dtype=dq.dtype, device=dq.device)
        grid = (triton.cdiv(3 * ctx.heads * len(dq), ctx.sizes["COUNT"]),)
        turn_back[grid](dq, dk, dv, cos, sin, dqkv, len(dq), ctx.heads, **ctx.sizes)
        return dqkv, None, None, None, None


def _sizes(half: int, count: int) -> dict[str, int]:
    return {"HALF": half, "PADDED": triton.next_power_of_2(half), "COUNT": count}


def rotated(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, *, count: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys turned as by `attention.rotate`, and values, from their common projection.

    Args:
        qkv: (T, 3 H E), contiguous, for H heads of E channels. It is overwritten, which saves the memory of a copy; so
            nothing else may read it. A linear layer's backward pass does not.
        cos, sin: T E/2 numbers, float32, from `attention.rotary_angles`.
        count: heads of a program, a power of two.

    Returns:
        q, k, v (T, H, E), slices of qkv.
    """
    if not len(qkv):
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(1)
        return q, k, v
    cos, sin = cos.flatten(1).contiguous(), sin.flatten(1).contiguous()
    with torch.cuda.device_of(qkv):  # Triton launches on the current device
        q, k, v = _Turned.apply(qkv, cos, sin, heads, count)
    return q, k, v

"""Triton kernels of the router: from projected queries and keys to probabilities, in one reading of both.

Plain torch makes a dozen passes over (T, D) in float32 for norms, normalised vectors, their product and its sum;
here each is read once forward and once backward. What is cut at these probabilities is `triton_cut`'s to find.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .triton_scan import launched, tl, triton

LEAST: Any = tl.constexpr(1e-8)  # a norm is taken to be no smaller, as in torch's cosine_similarity


@triton.jit
def products(query, key, t, T, D, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """q_t k_{t-1}, |q_t|^2 and |k_{t-1}|^2 of ROWS positions from t on, summed WIDTH channels at a time."""
    both = tl.zeros([ROWS, 1], tl.float32)
    of_query, of_key = tl.zeros([ROWS, 1], tl.float32), tl.zeros([ROWS, 1], tl.float32)
    for first in range(0, D, WIDTH):
        d = first + tl.arange(0, WIDTH)[None, :]
        q = tl.load(query + t * D + d, mask=(t < T) & (d < D), other=0.0)
        k = tl.load(key + (t - 1) * D + d, mask=(t > 0) & (t < T) & (d < D), other=0.0)
        both += tl.sum(q * k, axis=1, keep_dims=True)
        of_query += tl.sum(q * q, axis=1, keep_dims=True)
        of_key += tl.sum(k * k, axis=1, keep_dims=True)
    return both, of_query, of_key


@launched
def boundary_forward(query, key, step, probability, T, D, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """p_t = (1 - cos(q_t, k_{t-1})) / 2, 1 where a sequence starts. query, key (T, D). Grid (ceil(T / ROWS),)."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    both, of_query, of_key = products(query, key, t, T, D, ROWS, WIDTH)
    cosine = both / (tl.maximum(tl.sqrt(of_query), LEAST) * tl.maximum(tl.sqrt(of_key), LEAST))
    change = tl.minimum(tl.maximum(0.5 * (1.0 - cosine), 0.0), 1.0)
    change = tl.where(cosine == cosine, change, cosine)  # NaN stays NaN
    place = tl.load(step + t, mask=t < T, other=0)
    tl.store(probability + t, tl.where(place == 0, 1.0, change), mask=t < T)


@launched
def boundary_backward(dprobability, query, key, step, dquery, dkey, T, D, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Gradients of `boundary_forward`, on the same grid. Position t writes those of q_t and of k_{t-1}; the last
    position writes zeros for its own key, which nothing reads."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    both, of_query, of_key = products(query, key, t, T, D, ROWS, WIDTH)
    q_norm, k_norm = tl.maximum(tl.sqrt(of_query), LEAST), tl.maximum(tl.sqrt(of_key), LEAST)
    cosine = both / (q_norm * k_norm)
    place = tl.load(step + t, mask=t < T, other=0)
    flat = (place == 0) | (cosine > 1.0) | (cosine < -1.0)  # where p does not follow the cosine
    slope = tl.where(flat, 0.0, -0.5 * tl.load(dprobability + t, mask=t < T, other=0.0))
    for first in range(0, D, WIDTH):
        d = first + tl.arange(0, WIDTH)[None, :]
        before = (t > 0) & (t < T) & (d < D)
        q = tl.load(query + t * D + d, mask=(t < T) & (d < D), other=0.0)
        k = tl.load(key + (t - 1) * D + d, mask=before, other=0.0)
        along_q = tl.where(q_norm > LEAST, cosine * q / (q_norm * q_norm), 0.0)
        along_k = tl.where(k_norm > LEAST, cosine * k / (k_norm * k_norm), 0.0)
        tl.store(dquery + t * D + d, slope * (k / (q_norm * k_norm) - along_q), mask=(t < T) & (d < D))
        tl.store(dkey + (t - 1) * D + d, slope * (q / (q_norm * k_norm) - along_k), mask=before)
        tl.store(dkey + t * D + d, tl.zeros([ROWS, WIDTH], tl.float32), mask=(t == T - 1) & (d < D))


class _BoundaryProbability(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, step: Tensor, rows: int, width: int) -> Tensor:
        total, channels = query.shape
        probability = torch.empty(total, dtype=torch.float32, device=query.device)
        ctx.sizes = {"ROWS": rows, "WIDTH": width}
        boundary_forward[(triton.cdiv(total, rows),)](query, key, step, probability, total, channels, **ctx.sizes)
        ctx.save_for_backward(query, key, step)
        return probability

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, step = ctx.saved_tensors
        total, channels = query.shape
        dquery, dkey = torch.empty_like(query), torch.empty_like(key)
        grid = (triton.cdiv(total, ctx.sizes["ROWS"]),)
        boundary_backward[grid](grads[0].contiguous(), query, key, step, dquery, dkey, total, channels, **ctx.sizes)
        return dquery, dkey, None, None, None


def boundary_probability(query: Tensor, key: Tensor, step: Tensor, *, rows: int = 16, width: int = 128) -> Tensor:
    """(1 - cos(q_t, k_{t-1})) / 2, 1 at the start of each sequence.

    Args:
        query, key: (T, D) float32. step: (2, T) int32, `Packing.steps`.
        rows, width: positions of a program and channels it sums at a time, powers of two.

    Returns:
        (T,) float32.
    """
    if not len(query):
        return (query + key).sum(1)
    with torch.cuda.device_of(query):  # Triton launches on the current device
        p: Tensor = _BoundaryProbability.apply(query.contiguous(), key.contiguous(), step, rows, width)
    return p

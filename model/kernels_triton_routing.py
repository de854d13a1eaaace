"""Triton kernels of the router: probabilities from projected queries and keys, then boundaries and chunks from those.

Probabilities: plain torch makes a dozen passes over (T, D) in float32 for norms, normalised vectors, their product and
its sum. These kernels read queries and keys once in the forward pass and twice in the backward pass. In a bf16 run the
projections are products of bf16 numbers summed in float32: each factor is the sum of its first and its next eight bits,
and of the four products only that of both remainders, 2^-18 of the result, is left out.

Chunks: threshold, forced boundaries, prefix sum and compaction in two launches, since a prefix sum goes across
programs. `cut_mark` decides the boundaries and counts those of each program; `cut_place` numbers them. The host waits
for the device only if no capacity is given. All values are integers, so the result does not depend on the order of
programs and equals plain torch's exactly.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels_triton import end_of_range, launched, tl, triton
from .packing import Packing

LEAST: Any = tl.constexpr(1e-8)  # lower bound of a norm, as in torch's cosine_similarity


@triton.jit
def products(query, key, t, T, D, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """q_t k_{t-1}, |q_t|^2 and |k_{t-1}|^2 of the ROWS positions t, summed WIDTH channels at a time."""
    both = tl.zeros([ROWS, 1], tl.float32)
    of_query, of_key = tl.zeros([ROWS, 1], tl.float32), tl.zeros([ROWS, 1], tl.float32)
    for first in range(0, end_of_range(D), WIDTH):
        d = first + tl.arange(0, WIDTH)[None, :]
        q = tl.load(query + t * 2 * D + d, mask=(t < T) & (d < D), other=0.0)
        k = tl.load(key + (t - 1) * 2 * D + d, mask=(t > 0) & (t < T) & (d < D), other=0.0)
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
    """Gradients of `boundary_forward`, on the same grid. Position t writes those of q_t and k_{t-1}; the last
    position writes zeros for its own key, which nothing reads."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    both, of_query, of_key = products(query, key, t, T, D, ROWS, WIDTH)
    q_norm, k_norm = tl.maximum(tl.sqrt(of_query), LEAST), tl.maximum(tl.sqrt(of_key), LEAST)
    cosine = both / (q_norm * k_norm)
    place = tl.load(step + t, mask=t < T, other=0)
    flat = (place == 0) | (cosine > 1.0) | (cosine < -1.0)  # where p is constant
    slope = tl.where(flat, 0.0, -0.5 * tl.load(dprobability + t, mask=t < T, other=0.0))
    for first in range(0, end_of_range(D), WIDTH):
        d = first + tl.arange(0, WIDTH)[None, :]
        before = (t > 0) & (t < T) & (d < D)
        q = tl.load(query + t * 2 * D + d, mask=(t < T) & (d < D), other=0.0)
        k = tl.load(key + (t - 1) * 2 * D + d, mask=before, other=0.0)
        along_q = tl.where(q_norm > LEAST, cosine * q / (q_norm * q_norm), 0.0)
        along_k = tl.where(k_norm > LEAST, cosine * k / (k_norm * k_norm), 0.0)
        dq, dk = slope * (k / (q_norm * k_norm) - along_q), slope * (q / (q_norm * k_norm) - along_k)
        tl.store(dquery + t * 2 * D + d, dq.to(dquery.dtype.element_ty), mask=(t < T) & (d < D))
        tl.store(dkey + (t - 1) * 2 * D + d, dk.to(dkey.dtype.element_ty), mask=before)
        tl.store(dkey + t * 2 * D + d, tl.zeros([ROWS, WIDTH], dkey.dtype.element_ty), mask=(t == T - 1) & (d < D))


def product_in_float32(a: Tensor, b: Tensor) -> Tensor:
    """The product of two bf16 matrices, summed and returned in float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


@launched
def in_parts(x, parts, T, D, ROWS: tl.constexpr, WIDTH: tl.constexpr, LOW: tl.constexpr):
    """x (T, D) float32 as the sum of two bf16 tensors, to 2^-17. Grid (ceil(T / ROWS), ceil(D / WIDTH)).

    Of the three blocks of columns of parts (T, 3 D), block LOW is the second part, the other two are the first.
    """
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    there = (t < T) & (d < D)
    value = tl.load(x + t * D + d, mask=there, other=0.0)
    first = value.to(tl.bfloat16)
    for block in tl.static_range(3):
        part = (value - first.to(tl.float32)).to(tl.bfloat16) if block == LOW else first
        tl.store(parts + t * 3 * D + block * D + d, part, mask=there)


def split_in_parts(x: Tensor, parts: Tensor, low: int) -> None:
    """Write x (T, D) float32 into parts (T, 3 D) bf16, as `in_parts` says."""
    rows, width = 4, 256
    grid = (triton.cdiv(len(x), rows), triton.cdiv(x.shape[1], width))
    in_parts[grid](x, parts, len(x), x.shape[1], ROWS=rows, WIDTH=width, LOW=low)


def projected(x: Tensor, weights: Sequence[Tensor], *, half: bool) -> tuple[Tensor, Tensor]:
    """x (T, D) times both transposed weights (D, D) side by side, (T, 2 D) float32; with `half` by bf16 products.

    Returns the products, and both weights (2 D, D) in the precision of products.
    """
    if not half:
        both = torch.cat(tuple(weights)).float()
        return x.float() @ both.t(), both
    if weights[0].dtype == torch.bfloat16 and x.dtype == torch.bfloat16:
        both = torch.cat(tuple(weights))
        return product_in_float32(x, both.t()), both
    width = x.shape[1]
    columns = torch.empty(2 * width, 3 * width, dtype=torch.bfloat16, device=x.device)
    for weight, place in zip(weights, columns.chunk(2), strict=True):
        split_in_parts(weight.float().contiguous(), place, 1)
    wide = torch.empty(len(x), 3 * width, dtype=torch.bfloat16, device=x.device)
    split_in_parts(x.float().contiguous(), wide, 2)  # high high + high low + low high
    return product_in_float32(wide, columns.t()), columns[:, :width]


class _BoundaryProbability(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, query_weight: Tensor, key_weight: Tensor, step: Tensor, rows: int, width: int, half: bool
    ) -> Tensor:
        found, weights = projected(x, (query_weight, key_weight), half=half)
        query, key = found.chunk(2, dim=1)
        total, channels = query.shape
        probability = torch.empty(total, dtype=torch.float32, device=x.device)
        ctx.sizes, ctx.dtype = {"ROWS": rows, "WIDTH": width}, query_weight.dtype
        boundary_forward[(triton.cdiv(total, rows),)](query, key, step, probability, total, channels, **ctx.sizes)
        ctx.save_for_backward(x, weights, found, step)
        return probability

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, found, step = ctx.saved_tensors
        query, key = found.chunk(2, dim=1)
        total, channels = query.shape
        # in the precision that products of gradients have elsewhere
        slopes = torch.empty(found.shape, dtype=weights.dtype, device=x.device)
        grid = (triton.cdiv(total, ctx.sizes["ROWS"]),)
        boundary_backward[grid](
            grads[0].contiguous(), query, key, step, *slopes.chunk(2, dim=1), total, channels, **ctx.sizes
        )
        dx = product_of_gradients(slopes, weights, x.dtype)
        dweights = product_of_gradients(slopes.t(), x.to(slopes.dtype), ctx.dtype)
        return dx, *dweights.chunk(2), None, None, None, None


def product_of_gradients(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of two matrices of one dtype, in another that is at least as precise."""
    return torch.mm(a, b) if a.dtype == dtype else product_in_float32(a, b).to(dtype)


def boundary_probability(
    x: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    step: Tensor,
    *,
    half: bool = False,
    rows: int = 16,
    width: int = 128,
) -> Tensor:
    """(1 - cos(W_q x_t, W_k x_{t-1})) / 2, 1 at the start of each sequence.

    Args:
        x: (T, D). query_weight, key_weight: (D, D). step: (2, T) int32, `Packing.steps`.
        half: the run's products are in bf16: these are, too, but exact to 2^-17.
        rows, width: positions of a program and channels it sums at a time, powers of two.

    Returns:
        (T,) float32.
    """
    if not len(x):
        return (x @ query_weight.to(x.dtype) + x @ key_weight.to(x.dtype)).sum(1).float()
    with torch.cuda.device_of(x):  # Triton launches on the current device
        p: Tensor = _BoundaryProbability.apply(x, query_weight, key_weight, step, rows, width, half)
    return p


@launched
def cut_mark(
    probability, given, holds_mask, step, borders, natural, forced, boundary, counts,
    T, sequences, GIVEN: tl.constexpr, PROTECT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Boundaries of BLOCK positions, and their number. Grid (ceil(T / BLOCK),).

    probability (T,) float32; given, holds_mask, natural, forced, boundary (T,) uint8, 0 or 1; step (2, T) int32;
    borders int32, whose entry `sequences` is the position where filler begins; counts (programs,) int32.
    """
    program = tl.program_id(0)
    t = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = t < T
    first = tl.load(step + t, mask=there, other=1) == 0
    real = t < tl.load(borders + sequences)
    if GIVEN:
        own = (tl.load(given + t, mask=there, other=0) != 0) | first
    else:
        own = tl.load(probability + t, mask=there, other=0.0) >= 0.5
    own = own & real
    demanded = tl.zeros([BLOCK], tl.int1)
    if PROTECT:
        after = there & (t > 0) & (first == 0)  # a position whose predecessor belongs to the same sequence
        demanded = tl.load(holds_mask + t, mask=there, other=0) != 0
        demanded = demanded | (tl.load(holds_mask + t - 1, mask=after, other=0) != 0)
        demanded = demanded & real
    cut = (own | demanded | first) & there
    tl.store(natural + t, own.to(tl.uint8), mask=there)
    tl.store(forced + t, demanded.to(tl.uint8), mask=there)
    tl.store(boundary + t, cut.to(tl.uint8), mask=there)
    tl.store(counts + program, tl.sum(cut.to(tl.int32), axis=0))


@launched
def cut_place(
    boundary, holds_mask, counts, counted, chunk, starts, chunk_holds_mask,
    T, capacity, BLOCK: tl.constexpr,
):  # fmt: skip
    """Number the boundaries: each position's chunk, each chunk's start and whether it holds a mask. Grid as `cut_mark`.

    counted, chunk (T,) int64; starts int64 and chunk_holds_mask uint8 (capacity,), filled with 0 by the caller. Chunks
    beyond the capacity have no start; their positions belong to the last chunk within it.
    """
    program = tl.program_id(0)
    t = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = t < T
    before = tl.zeros([BLOCK], tl.int32)
    for tile in range(0, end_of_range(program), BLOCK):
        others = tile + tl.arange(0, BLOCK)
        before += tl.load(counts + others, mask=others < program, other=0)
    cut = tl.load(boundary + t, mask=there, other=0).to(tl.int32)
    number = (tl.sum(before, axis=0) + tl.cumsum(cut, axis=0)).to(tl.int64)
    mine = tl.minimum(number, capacity) - 1
    tl.store(counted + t, number, mask=there)
    tl.store(chunk + t, mine, mask=there)
    tl.store(starts + mine, t, mask=there & (cut != 0) & (number <= capacity))
    holding = tl.load(holds_mask + t, mask=there, other=0) != 0
    tl.store(chunk_holds_mask + mine, tl.full([BLOCK], 1, tl.uint8), mask=there & holding)  # all write 1: any order


def cut_chunks(
    probability: Tensor,
    given: Tensor | None,
    holds_mask: Tensor,
    packing: Packing,
    *,
    protect: bool,
    capacity: int | None,
    block: int = 1024,
) -> dict[str, Tensor]:
    """The chunks of T > 0 positions, under the names of the properties of `routing.Segmentation`.

    Args:
        probability: (T,) float32. given: (T,) bool, natural boundaries in place of p >= 1/2.
        holds_mask: (T,) bool. protect: whether masks force boundaries.
        capacity: size of the buffers for chunks; None: wait for the device to count the chunks.
        block: positions of a program, a power of two.

    Returns:
        `natural`, `forced`, `boundary` (T,) bool, `counted` and `chunk` (T,) int64, `starts` (C,) int64,
        `chunk_holds_mask` (C,) bool.
    """
    total, device = packing.total, probability.device
    grid = (triton.cdiv(total, block),)
    holds = holds_mask.contiguous().view(torch.uint8)
    supplied = holds if given is None else given.contiguous().view(torch.uint8)
    natural, forced, boundary = (torch.empty(total, dtype=torch.uint8, device=device) for _ in range(3))
    counts = torch.empty(grid, dtype=torch.int32, device=device)
    counted, chunk = (torch.empty(total, dtype=torch.int64, device=device) for _ in range(2))
    with torch.cuda.device_of(probability):  # Triton launches on the current device
        cut_mark[grid](
            probability.detach().contiguous(), supplied, holds, packing.steps, packing.cu_seqlens,
            natural, forced, boundary, counts,
            total, len(packing.real_lengths), GIVEN=given is not None, PROTECT=protect, BLOCK=block,
        )  # fmt: skip
        capacity = int(counts.sum()) if capacity is None else capacity
        starts = torch.zeros(capacity, dtype=torch.int64, device=device)
        holding = torch.zeros(capacity, dtype=torch.uint8, device=device)
        cut_place[grid](boundary, holds, counts, counted, chunk, starts, holding, total, capacity, BLOCK=block)
    flags = {"natural": natural, "forced": forced, "boundary": boundary, "chunk_holds_mask": holding}
    return {name: flag.view(torch.bool) for name, flag in flags.items()} | {
        "counted": counted, "chunk": chunk, "starts": starts,
    }  # fmt: skip

"""Triton kernels of the selective scan: both directions, forward.

A program steps through one span, `SPAN` positions of `WIDTH` channels, with the (N, WIDTH) state in registers. Three
launches let all spans of a long sequence run at once and fill the GPU: `reach` computes the state each span ends in
when it starts from zeros, `carry` the states that enter the spans, `emit` the outputs. Direction 0 reads forward,
direction 1 backward; only the order of positions and their `step` differ, and nothing is flipped in memory.

Names, in all kernels of the family: T packed positions, D channels, N states; `way` is the direction; `step` (2, T)
int32 is a position's index in its sequence as each direction reads it, and the state is dropped where it is 0; `rate`
is A log2(e), so that exp(delta A) is one exp2. Tensors per position and channel may have any precision; states are
float32.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .kernels_triton import dropping, end_of_range, launched, sigmoid, time_step, tl, triton
from .kernels_triton_scan_backward import reach_back, retreat


@launched
def reach(
    u, raw, B, dt_bias, rate, step, delta, ends, elapsed,
    T, D, row, N: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The state each span ends in from zeros, and the sum of its time steps. Grid (spans, ceil(D / WIDTH), 2).

    u, raw (2, T, D); B (2, T, N) with stride `row` between positions and T * row between directions; rate (2, N, D);
    writes delta (2, T, D), ends (spans, 2, N, D) and elapsed (spans, 2, D) float32. (The softplus costs as much as the
    step itself, so later kernels read delta.)
    """
    span, way = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
    bias = tl.load(dt_bias + way * D + d, mask=real, other=0.0)
    state = tl.zeros([N, WIDTH], tl.float32)
    lasted = tl.zeros([WIDTH], tl.float32)
    for i in range(SPAN):
        t = span * SPAN + tl.where(way == 0, i, SPAN - 1 - i)
        valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
        offset = (way * T + t) * D + d
        dt = time_step(raw, delta, offset, bias, valid)
        drive = dt * tl.load(u + offset, mask=valid, other=0.0).to(tl.float32)
        b = tl.load(B + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
        state = state * tl.exp2(a * dt[None, :] + dropping(step, way, t, T)) + b * drive[None, :]
        lasted += dt
    tl.store(ends + ((span * 2 + way) * N + n) * D + d[None, :], state, mask=real[None, :])
    tl.store(elapsed + (span * 2 + way) * D + d, lasted, mask=real)


@launched
def carry(
    ends, elapsed, rate, step,
    T, D, spans, N: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr, AHEAD: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Turn, in place, the state each span ends in from zeros into the one that enters it. Grid (ceil(N D / WIDTH), 2).

    Spans are taken in the order in which the direction reads them, or with BACK, for gradients, in the opposite order.
    AHEAD spans are loaded together. A span in which a sequence begins lets no state through.
    """
    way = tl.program_id(1)
    e = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    a = tl.load(rate + way * N * D + e, mask=e < N * D, other=0.0)
    rising = (way == 0) != BACK
    state = tl.zeros([WIDTH], tl.float32)
    for group in range(0, end_of_range(spans), AHEAD):
        local, decay = (), ()
        for k in tl.static_range(AHEAD):
            span = tl.where(rising, group + k, spans - 1 - group - k).to(tl.int64)
            there = e < tl.where(group + k < spans, N * D, 0)
            count = tl.minimum(T - span * SPAN, SPAN)
            last = span * SPAN + tl.where(way == 0, count - 1, 0)  # the position that the direction reads last
            through = tl.load(step + way * T + last, mask=group + k < spans, other=0) >= count
            lasted = tl.load(elapsed + (span * 2 + way) * D + e % D, mask=there, other=0.0)
            local = local + (tl.load(ends + (span * 2 + way) * N * D + e, mask=there, other=0.0),)
            decay = decay + (tl.where(through, tl.exp2(a * lasted), 0.0),)
        for k in tl.static_range(AHEAD):
            span = tl.where(rising, group + k, spans - 1 - group - k).to(tl.int64)
            there = e < tl.where(group + k < spans, N * D, 0)
            tl.store(ends + (span * 2 + way) * N * D + e, state, mask=there)
            state = local[k] + decay[k] * state


@launched
def emit(
    u, delta, B, C, z, rate, skip, step, entering, out,
    T, D, row, z_row, N: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out = (y_forward + y_backward) * SiLU(z), y = C h + D u. Grid (spans, ceil(D / WIDTH)).

    z (T, D) with stride `z_row` between positions, skip (2, D), entering from `carry`; writes out (T, D), where the
    first direction leaves its y for the second.
    """
    span = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    for way in range(2):
        a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
        through = tl.load(skip + way * D + d, mask=real, other=0.0)
        state = tl.load(entering + ((span * 2 + way) * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
        for i in range(SPAN):
            t = span * SPAN + tl.where(way == 0, i, SPAN - 1 - i)
            valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
            offset = (way * T + t) * D + d
            dt = tl.load(delta + offset, mask=valid, other=0.0)
            x = tl.load(u + offset, mask=valid, other=0.0).to(tl.float32)
            b = tl.load(B + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
            c = tl.load(C + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
            drive = (dt * x)[None, :]
            state = state * tl.exp2(a * dt[None, :] + dropping(step, way, t, T)) + b * drive
            y = tl.sum(c * state, axis=0) + through * x
            if way == 1:
                gate = tl.load(z + t * z_row + d, mask=valid, other=0.0).to(tl.float32)
                y += tl.load(out + t * D + d, mask=valid, other=0.0).to(tl.float32)
                y *= gate * sigmoid(gate)
            tl.store(out + t * D + d, y.to(out.dtype.element_ty), mask=valid)
        tl.debug_barrier()  # a thread may read what another thread wrote


LOG2_E = 1.4426950408889634


class Tiling(NamedTuple):
    """How the scan is divided into programs.

    Attributes:
        span: positions of a program. The backward pass needs one stored state per span.
        tile: positions whose states the backward pass holds in registers; divides `span`.
        width: channels of a program.
        ahead: spans whose states `carry` loads together.
        warps: warps of a program.
    """

    span: int = 16
    tile: int = 4
    width: int = 32
    ahead: int = 16
    warps: int = 1


SHORT = 128  # with fewer positions, large spans would leave the GPU idle
SMALL = Tiling(span=8, tile=4, ahead=4)


class _GatedScan(Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        raw: Tensor,
        B: Tensor,
        C: Tensor,
        z: Tensor,
        A: Tensor,
        skip: Tensor,
        dt_bias: Tensor,
        step: Tensor,
        tiling: Tiling,
    ) -> Tensor:
        _, total, channels = u.shape
        states = A.shape[2]
        rate = (A.transpose(1, 2) * LOG2_E).contiguous()
        spans, blocks = triton.cdiv(total, tiling.span), triton.cdiv(channels, tiling.width)
        sizes = {"N": states, "SPAN": tiling.span, "WIDTH": tiling.width, "num_warps": tiling.warps}
        entering = torch.empty(spans, 2, states, channels, dtype=torch.float32, device=u.device)
        elapsed = torch.empty(spans, 2, channels, dtype=torch.float32, device=u.device)
        row = B.stride(1)
        delta = torch.empty(u.shape, dtype=torch.float32, device=u.device)
        reach[(spans, blocks, 2)](
            u, raw, B, dt_bias, rate, step, delta, entering, elapsed, total, channels, row, **sizes
        )
        _carry(entering, elapsed, rate, step, total, tiling, back=False)
        out = torch.empty(total, channels, dtype=u.dtype, device=u.device)
        emit[(spans, blocks)](
            u, delta, B, C, z, rate, skip, step, entering, out, total, channels, row, z.stride(0), **sizes
        )
        ctx.save_for_backward(u, raw, B, C, z, rate, skip, dt_bias, step, entering, elapsed)
        ctx.tiling = tiling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, raw, B, C, z, rate, skip, dt_bias, step, entering, elapsed = ctx.saved_tensors
        tiling: Tiling = ctx.tiling
        grad = grads[0].contiguous()
        _, total, channels = u.shape
        spans, states = entering.shape[0], rate.shape[1]
        blocks = triton.cdiv(channels, tiling.width)
        sizes = {"N": states, "SPAN": tiling.span, "WIDTH": tiling.width, "num_warps": tiling.warps}
        leaving = torch.empty_like(entering)
        delta = torch.empty(u.shape, dtype=torch.float32, device=u.device)
        row, z_row = B.stride(1), z.stride(0)
        reach_back[(spans, blocks, 2)](
            grad, raw, C, z, dt_bias, rate, step, delta, leaving, total, channels, row, z_row, **sizes
        )
        _carry(leaving, elapsed, rate, step, total, tiling, back=True)
        du, draw = torch.empty_like(u), torch.empty_like(raw)
        dz = torch.empty(total, channels, dtype=z.dtype, device=z.device)
        dbc = torch.empty(blocks, 2, total, 2 * states, dtype=torch.float32, device=u.device)
        shared = torch.empty(spans, 2, states + 2, channels, dtype=torch.float32, device=u.device)
        retreat[(spans, blocks)](
            grad, u, delta, B, C, z, rate, skip, step, entering, leaving,
            du, draw, dbc, dz, shared,
            total, channels, row, z_row, TILE=tiling.tile, **sizes,
        )  # fmt: skip
        dB, dC = dbc.sum(0).to(B.dtype).split(states, dim=-1)
        dA, dskip, dbias = shared.sum(0).split((states, 1, 1), dim=1)
        return du, draw, dB, dC, dz, dA.transpose(1, 2), dskip.squeeze(1), dbias.squeeze(1), None, None


def _carry(
    ends: Tensor, elapsed: Tensor, rate: Tensor, step: Tensor, total: int, tiling: Tiling, *, back: bool
) -> None:
    spans, _, states, channels = ends.shape
    grid = (triton.cdiv(states * channels, tiling.width), 2)
    carry[grid](
        ends, elapsed, rate, step, total, channels, spans,
        N=states, SPAN=tiling.span, WIDTH=tiling.width, AHEAD=tiling.ahead, BACK=back, num_warps=1,
    )  # fmt: skip


def gated_scan(
    u: Tensor,
    raw: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor,
    A: Tensor,
    skip: Tensor,
    dt_bias: Tensor,
    step: Tensor,
    tiling: Tiling | None = None,
) -> Tensor:
    """(y_0 + y_1) * SiLU(z), y_w the selective scan of direction w (1 reads backward).

    Each direction is `kernels_reference.selective_scan`.

    Args:
        u: (2, T, Dm), what each direction scans. raw: (2, T, Dm), delta = softplus(raw + dt_bias).
        B, C: (2, T, N), which may be slices of one (2, T, .) tensor. z: (T, Dm), which may be a slice too.
        A: (2, Dm, N), negative. skip: (2, Dm), Mamba's D. dt_bias: (2, Dm). Float32.
        step: (2, T) int32, `Packing.steps`.
        tiling: None chooses by T.

    Returns:
        (T, Dm), dtype of u; states and sums are float32.
    """
    if not u.shape[1]:
        return (u.sum(0) + raw.sum(0)) * z
    spare = triton.next_power_of_2(A.shape[2]) - A.shape[2]  # states that stay zero
    if spare:
        A, B, C = (F.pad(x, (0, spare)) for x in (A, B, C))
    if B.stride() != C.stride() or B.stride(2) != 1 or B.stride(0) != B.shape[1] * B.stride(1):
        B, C = B.contiguous(), C.contiguous()
    z = z if z.stride(1) == 1 else z.contiguous()
    exact = (A.float(), skip.float().contiguous(), dt_bias.float().contiguous())
    tiling = tiling or (SMALL if u.shape[1] < SHORT else Tiling())
    with torch.cuda.device_of(u):  # Triton launches on the current device
        y: Tensor = _GatedScan.apply(u.contiguous(), raw.contiguous(), B, C, z, *exact, step, tiling)
    return y

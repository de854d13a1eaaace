"""Triton kernels of the selective scan: both directions, forward.

A program steps through one span, `SPAN` positions of `WIDTH` channels, with the (N, WIDTH) state in registers. Three
launches let all spans of a long sequence run at once and fill the GPU: `reach` computes the state each span ends in
when it starts from zeros, `carry` the states that enter the spans, `emit` the outputs. Direction 0 reads forward,
direction 1 backward; only the order of positions and their `step` differ, and nothing is flipped in memory.

Names, in all kernels of the family: T packed positions, D channels, N states; `way` is the direction; `step` (2, T)
int32 is a position's index in its sequence as each direction reads it, and the state is dropped where it is 0; `rate`
is A log2(e), so that exp(delta A) is one exp2. Tensors per position and channel may have any precision; states are
float32. Inside a program, `base` is the first position of its span and `r` a position counted from there, of which
`left` exist: addresses that the loops compute then fit 32 bits, which saves a tenth of their instructions.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kernels_triton import channels, end_of_range, launched, opening, tl, triton, widened
from .kernels_triton_scan_backward import advance, over_states, place_of_kept, reach_back, retreat


@launched
def reach(
    u, raw, B, dt_bias, rate, step, ends, elapsed,
    T, D: tl.constexpr, row, N: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The state each span ends in from zeros, and the sum of its time steps. Grid (spans, ceil(D / WIDTH), 2).

    u, raw (2, T, D); B (2, T, N) with stride `row` between positions and T * row between directions; rate (2, N, D);
    writes ends (spans, 2, N, D) and elapsed (spans, 2, D) float32. Positions of sequences that end in the span do not
    reach the next: they are left out, also of `elapsed`, since the next span drops what `carry` hands to it.
    """
    span, way = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d, real = channels(tl.program_id(1), D, WIDTH)
    n = tl.arange(0, N)[:, None]
    a = tl.load(rate + ((way * N + n) * D + d[None, :]))
    bias = tl.load(dt_bias + way * D + d)
    base = way * T + span * SPAN
    left = tl.minimum(T - span * SPAN, SPAN).to(tl.int32)
    u, raw, B, step = u + base * D, raw + base * D, B + base * row, step + base
    state = tl.zeros([N, WIDTH], tl.float32)
    lasted = tl.zeros([WIDTH], tl.float32)
    follows = tl.where(way == 0, left, -1)  # the position that is read after the span
    there = (follows + span * SPAN >= 0) & (follows + span * SPAN < T)
    count = tl.minimum(left, tl.load(step + follows, mask=there, other=SPAN))
    for i in range(end_of_range(left - count), end_of_range(left)):
        r = tl.where(way == 0, i, left - 1 - i)
        state, dt, _ = advance(state, a, u, raw, B, bias, step, r, n, d, D, row, SHARED=True)
        lasted += dt
    tl.store(ends + ((span * 2 + way) * N + n) * D + d[None, :], state, mask=real[None, :])
    tl.store(elapsed + (span * 2 + way) * D + d, lasted, mask=real)


@launched
def carry(
    ends, elapsed, rate, step, entering, leaving,
    T, D, spans, N: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr, AHEAD: tl.constexpr, BACK: tl.constexpr,
    OPEN: tl.constexpr,
):  # fmt: skip
    """Turn, in place, the state each span ends in from zeros into the one that enters it. Grid (ceil(N D / WIDTH), 2).

    Spans are taken in the order in which the direction reads them, or with BACK, for gradients, in the opposite order.
    AHEAD spans are loaded together. A span in which a sequence begins lets no state through. If OPEN, entering
    (2, N, D) is the state before the first of these spans, and leaving (2, N, D) becomes the one after the last.
    """
    way = tl.program_id(1)
    e = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    a = tl.load(rate + way * N * D + e, mask=e < N * D, other=0.0)
    rising = (way == 0) != BACK
    state = tl.zeros([WIDTH], tl.float32)
    if OPEN:
        state = tl.load(entering + way * N * D + e, mask=e < N * D, other=0.0)
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
            state = tl.where(group + k < spans, local[k] + decay[k] * state, state)
    if OPEN:
        tl.store(leaving + way * N * D + e, state, mask=e < N * D)


@launched
def emit(
    u, raw, B, C, z, dt_bias, rate, skip, step, entering, kept, sums, out,
    T, D: tl.constexpr, row, z_row, N: tl.constexpr, SPAN: tl.constexpr, KEEP: tl.constexpr, WIDTH: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """out = (y_forward + y_backward) * SiLU(z), y = C h + D u. Grid (spans, ceil(D / WIDTH)).

    z (T, D) with stride `z_row` between positions, skip (2, D), entering from `carry`; writes out (T, D) and, for the
    backward pass, sums (T, D), y_forward + y_backward, and if KEPT the states that enter each KEEP positions, as the
    direction reads them, in `place_of_kept`. The first direction leaves its y in `sums` for the second; `sums` may be
    `out`.
    """
    span = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    d, real = channels(block, D, WIDTH)
    n, lane = tl.arange(0, N)[:, None], tl.arange(0, WIDTH)
    left = tl.minimum(T - span * SPAN, SPAN).to(tl.int32)
    parts = (left + KEEP - 1) // KEEP
    z, out, sums = z + span * SPAN * z_row, out + span * SPAN * D, sums + span * SPAN * D
    for way in tl.static_range(2):
        a = tl.load(rate + ((way * N + n) * D + d[None, :]))
        through = tl.load(skip + way * D + d)
        bias = tl.load(dt_bias + way * D + d)
        state = tl.load(entering + (((span * 2 + way) * N + n) * D + d[None, :]))
        base = way * T + span * SPAN
        ours, rows, steps = raw + base * D, B + base * row, step + base
        inputs, readout = u + base * D, C + base * row
        for part in range(end_of_range(parts)):
            if KEPT:
                place = place_of_kept(span * (SPAN // KEEP) + part, way, block, D, N, WIDTH)
                tl.store(kept + place + lane[None, :] + n * WIDTH, state.to(kept.dtype.element_ty))
            first = part * KEEP
            for i in range(end_of_range(first), end_of_range(tl.minimum(left, first + KEEP))):
                r = i if way == 0 else left - 1 - i
                state, _, x = advance(state, a, inputs, ours, rows, bias, steps, r, n, d, D, row)
                c = tl.load(readout + r * row + n).to(tl.float32)
                y = over_states(state, c)
                y += through * x
                if way == 1:
                    y += widened(tl.load(sums + (r * D + d)))
                tl.store(sums + (r * D + d), y.to(sums.dtype.element_ty), mask=real)
                if way == 1:
                    gate = widened(tl.load(z + (r * z_row + d)))
                    tl.store(out + (r * D + d), (y * gate * opening(gate)).to(out.dtype.element_ty), mask=real)
        tl.debug_barrier()  # a thread may read what another thread wrote


class Tiling(NamedTuple):
    """How the scan is divided into programs.

    Attributes:
        span: positions of a program. Longer spans mean fewer states in memory, and fewer programs.
        keep: positions between the states that the forward pass stores for the backward pass, in the precision of u;
            divides `span`.
        width: channels of a program.
        ahead: spans whose states `carry` loads together.
        warps: warps of a program.
    """

    span: int = 128
    keep: int = 8
    width: int = 64
    ahead: int = 16
    warps: int = 1


def tiling_for(positions: int) -> Tiling:
    """With fewer positions, large programs would leave the GPU idle: 1,280 channels make about 5,000 programs.

    The tiling depends on the number alone, not on the GPU, so that a resumed run adds in the same order.
    """
    if positions < 128:
        return Tiling(span=8, ahead=4)
    if positions < 32_768:
        return Tiling(span=32)
    return Tiling() if positions < 65_536 else Tiling(span=256)


class _GatedScan(Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        raw: Tensor,
        B: Tensor,
        C: Tensor,
        z: Tensor,
        rows: Tensor,
        step: Tensor,
        entering: Tensor | None,
        tiling: Tiling,
    ) -> Tensor | tuple[Tensor, Tensor]:
        _, total, channels = u.shape
        states = rows.shape[0] // 2 - 2
        rate, skip, dt_bias = rows.split((2 * states, 2, 2))
        spans, blocks = triton.cdiv(total, tiling.span), triton.cdiv(channels, tiling.width)
        sizes = {"N": states, "SPAN": tiling.span, "WIDTH": tiling.width, "num_warps": tiling.warps}
        ends = torch.empty(spans, 2, states, channels, dtype=torch.float32, device=u.device)
        elapsed = torch.empty(spans, 2, channels, dtype=torch.float32, device=u.device)
        row = B.stride(1)
        reach[(spans, blocks, 2)](u, raw, B, dt_bias, rate, step, ends, elapsed, total, channels, row, **sizes)
        leaving = _carry(ends, elapsed, rate, step, entering, total, tiling, back=False)
        out = torch.empty(total, channels, dtype=u.dtype, device=u.device)
        keeps = any(ctx.needs_input_grad)
        parts = spans * (tiling.span // tiling.keep)
        sums = torch.empty_like(out) if keeps else out
        kept = torch.empty(parts, 2, blocks, states, tiling.width, dtype=u.dtype, device=u.device) if keeps else ends
        emit[(spans, blocks)](
            u, raw, B, C, z, dt_bias, rate, skip, step, ends, kept, sums, out,
            total, channels, row, z.stride(0), KEEP=tiling.keep, KEPT=keeps, **sizes,
        )  # fmt: skip
        if keeps:
            ctx.save_for_backward(u, raw, B, C, z, rows, step, kept, elapsed, sums)
        ctx.tiling = tiling
        return out if leaving is None else (out, leaving)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, raw, B, C, z, rows, step, kept, elapsed, sums = ctx.saved_tensors
        tiling: Tiling = ctx.tiling
        grad = grads[0].contiguous()
        _, total, channels = u.shape
        spans, states = elapsed.shape[0], rows.shape[0] // 2 - 2
        rate, skip, dt_bias = rows.split((2 * states, 2, 2))
        blocks = triton.cdiv(channels, tiling.width)
        sizes = {"N": states, "SPAN": tiling.span, "WIDTH": tiling.width, "num_warps": tiling.warps}
        leaving = torch.empty(spans, 2, states, channels, dtype=torch.float32, device=u.device)
        row, z_row = B.stride(1), z.stride(0)
        reach_back[(spans, blocks, 2)](
            grad, raw, C, z, dt_bias, rate, step, leaving, total, channels, row, z_row, **sizes
        )
        dleaving = grads[1].contiguous() if len(grads) > 1 else None
        dentering = _carry(leaving, elapsed, rate, step, dleaving, total, tiling, back=True)
        du, draw = torch.empty_like(u), torch.empty_like(raw)
        dz = torch.empty(total, channels, dtype=z.dtype, device=z.device)
        dbc = torch.empty(blocks, 2, total, states, 2, dtype=u.dtype, device=u.device)
        shared = torch.empty(spans, *rows.shape, dtype=torch.float32, device=u.device)
        held = torch.empty(2 * spans * blocks, tiling.keep, states, tiling.width, dtype=u.dtype, device=u.device)
        times = torch.empty(2 * spans * blocks, tiling.keep, tiling.width, dtype=torch.float32, device=u.device)
        retreat[(2 * spans, blocks)](
            grad, u, raw, B, C, z, dt_bias, rate, skip, step, kept, leaving, sums, held, times,
            du, draw, dbc, dz, shared,
            total, channels, row, z_row, KEEP=tiling.keep, **sizes,
        )  # fmt: skip
        dB, dC = dbc.sum(0, dtype=B.dtype).unbind(-1)
        return du, draw, dB, dC, dz, shared.sum(0), None, dentering, None


def _carry(
    ends: Tensor, elapsed: Tensor, rate: Tensor, step: Tensor, entering: Tensor | None, total: int, tiling: Tiling, *,
    back: bool,
) -> Tensor | None:  # fmt: skip
    """`carry`, in place; returns the state that leaves, if one may enter."""
    spans, _, states, channels = ends.shape
    grid = (triton.cdiv(states * channels, tiling.width), 2)
    leaving = None if entering is None else torch.empty_like(entering)
    around = (ends, ends) if entering is None else (entering, leaving)  # pointers that nothing reads, and ours
    carry[grid](
        ends, elapsed, rate, step, *around, total, channels, spans,
        N=states, SPAN=tiling.span, WIDTH=tiling.width, AHEAD=tiling.ahead, BACK=back, OPEN=entering is not None,
        num_warps=1,
    )  # fmt: skip
    return leaving


def gated_scan(
    u: Tensor, raw: Tensor, B: Tensor, C: Tensor, z: Tensor, rows: Tensor, step: Tensor, tiling: Tiling | None = None
) -> Tensor:
    """(y_0 + y_1) * SiLU(z), y_w the selective scan of direction w (1 reads backward).

    Each direction is `kernels_reference.selective_scan`.

    Args:
        u: (2, T, Dm), what each direction scans. raw: (2, T, Dm), delta = softplus(raw + dt_bias).
        B, C: (2, T, N), which may be slices of one (2, T, .) tensor. z: (T, Dm), which may be a slice too.
        rows: (2 N' + 4, Dm) float32, A, Mamba's D and dt_bias as `scan_rows` lays them out.
        step: (2, T) int32, `Packing.steps`.
        tiling: None chooses by T.

    Returns:
        (T, Dm), dtype of u. All is added up in float32; partial sums of the gradients of B and C, and the states kept
        for the backward pass, have the precision of u.
    """
    if not u.shape[1]:
        return (u.sum(0) + raw.sum(0)) * z
    y: Tensor = _scanned(u, raw, B, C, z, rows, step, None, tiling)
    return y


def gated_scan_of_block(
    u: Tensor, raw: Tensor, B: Tensor, C: Tensor, z: Tensor, rows: Tensor, step: Tensor, entering: Tensor,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`gated_scan` of T > 0 positions in the midst of others.

    Args:
        step: counts positions before the block too, so that a state enters where this is not 0 at the block's end.
        entering: (2, N, Dm) float32, the state that enters in each direction: before the first position, and after the
            last.
        u, raw, B, C, z, rows, tiling: as `gated_scan`.

    Returns:
        (T, Dm), and (2, N, Dm) float32, the state that leaves in each direction.
    """
    spare = rows.shape[0] // 2 - 2 - entering.shape[1]
    entering = F.pad(entering, (0, 0, 0, spare)).contiguous()
    y, leaving = _scanned(u, raw, B, C, z, rows, step, entering, tiling)
    return y, leaving[:, : leaving.shape[1] - spare]


def _scanned(
    u: Tensor, raw: Tensor, B: Tensor, C: Tensor, z: Tensor, rows: Tensor, step: Tensor, entering: Tensor | None,
    tiling: Tiling | None,
) -> Any:  # fmt: skip
    spare = rows.shape[0] // 2 - 2 - B.shape[2]  # states that stay zero
    if spare:
        B, C = (F.pad(x, (0, spare)) for x in (B, C))
    if B.stride() != C.stride() or B.stride(2) != 1 or B.stride(0) != B.shape[1] * B.stride(1):
        B, C = B.contiguous(), C.contiguous()
    z = z if z.stride(1) == 1 else z.contiguous()
    tiling = tiling or tiling_for(u.shape[1])
    with torch.cuda.device_of(u):  # Triton launches on the current device
        return _GatedScan.apply(
            u.contiguous(), raw.contiguous(), B, C, z, rows.contiguous(), step.contiguous(), entering, tiling
        )

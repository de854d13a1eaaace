"""Triton kernels of the selective scan: gradients. Names and layout as in `kernels_triton_scan.py`.

Nothing per position and state is ever stored. The states that enter the spans are kept from the forward pass;
`reach_back` and `carry` compute the gradients of the states that leave them, and `retreat` goes through a span from its
end, `TILE` positions at a time: it runs the scan from the span's start up to the tile, holds the tile's states in
registers, and steps back through them. (Dividing by the decay would lose all digits where a state is forgotten.)

With s_t the gradient of h_t and g_t = exp(delta_t A) s_t the part of it that reaches h_{t-1},
    s_t = dy_t C_t + g_{t+1};  dB_t = sum_d s_t delta_t u_t;  dC_t = sum_d dy_t h_t;
    d(delta_t u_t) = sum_n s_t B_t;  d(delta_t A) = g_t h_{t-1}.
"""

from typing import Any

from .kernels_triton import dropping, end_of_range, launched, sigmoid, time_step, tl, triton

LN_2: Any = tl.constexpr(0.6931471805599453)


@launched
def reach_back(
    grad, raw, C, z, dt_bias, rate, step, delta, ends,
    T, D, row, z_row, N: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient each span hands to the span read before it, from zeros. Grid (spans, ceil(D / WIDTH), 2).

    grad (T, D) is the gradient of `out`; writes delta (2, T, D), as `reach`, and ends (spans, 2, N, D).
    """
    span, way = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
    bias = tl.load(dt_bias + way * D + d, mask=real, other=0.0)
    handed = tl.zeros([N, WIDTH], tl.float32)
    for i in range(SPAN):
        t = span * SPAN + tl.where(way == 0, SPAN - 1 - i, i)
        valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
        dt = time_step(raw, delta, (way * T + t) * D + d, bias, valid)
        gate = tl.load(z + t * z_row + d, mask=valid, other=0.0).to(tl.float32)
        dy = tl.load(grad + t * D + d, mask=valid, other=0.0).to(tl.float32) * gate * sigmoid(gate)
        c = tl.load(C + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
        handed += c * dy[None, :]
        handed *= tl.exp2(a * dt[None, :] + dropping(step, way, t, T))
    tl.store(ends + ((span * 2 + way) * N + n) * D + d[None, :], handed, mask=real[None, :])


@triton.jit
def advance(state, a, u, delta, B, step, way, t, n, d, T, D, row, N: tl.constexpr):
    """The state after position t, from the state before it."""
    valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
    offset = (way * T + t) * D + d
    dt = tl.load(delta + offset, mask=valid, other=0.0)
    x = tl.load(u + offset, mask=valid, other=0.0).to(tl.float32)
    b = tl.load(B + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
    return state * tl.exp2(a * dt[None, :] + dropping(step, way, t, T)) + b * (dt * x)[None, :]


@triton.jit
def slope_of_softplus(y):
    """The derivative of softplus where its value is y: 1 - e^-y, by a series where the difference would lose digits."""
    return tl.where(y < 0.03, y * (1.0 - y * (0.5 - y * (1.0 / 6.0 - y / 24.0))), 1.0 - tl.exp(-y))


@launched
def retreat(
    grad, u, delta, B, C, z, rate, skip, step, entering, leaving,
    du, draw, dbc, dz, shared,
    T, D, row, z_row,
    N: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """All gradients of `emit`. Grid (spans, ceil(D / WIDTH)).

    entering, leaving (spans, 2, N, D) from `carry`, forward and back. Writes du, draw (2, T, D); dz (T, D), where the
    first direction leaves its part for the second; dbc (ceil(D / WIDTH), 2, T, 2 N) float32, partial sums of dB and dC;
    and shared (spans, 2, N + 2, D) float32, partial sums of the gradients of A, skip and dt_bias.
    """
    span, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = block * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    for way in range(2):
        a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
        place = ((span * 2 + way) * N + n) * D + d[None, :]
        handed = tl.load(leaving + place, mask=real[None, :], other=0.0)
        grad_a = tl.zeros([N, WIDTH], tl.float32)
        grad_skip = tl.zeros([WIDTH], tl.float32)
        grad_bias = tl.zeros([WIDTH], tl.float32)
        for tile in range(SPAN // TILE):
            first = SPAN - (tile + 1) * TILE  # first position of the tile, as the direction reads
            state = tl.load(entering + place, mask=real[None, :], other=0.0)
            for i in range(end_of_range(first)):
                t = span * SPAN + tl.where(way == 0, i, SPAN - 1 - i)
                state = advance(state, a, u, delta, B, step, way, t, n, d, T, D, row, N)
            before = ()  # the state that enters each position
            for k in tl.static_range(TILE):
                t = span * SPAN + tl.where(way == 0, first + k, SPAN - 1 - first - k)
                before = before + (state,)
                state = advance(state, a, u, delta, B, step, way, t, n, d, T, D, row, N)
            for back in tl.static_range(TILE):
                i = first + TILE - 1 - back
                t = span * SPAN + tl.where(way == 0, i, SPAN - 1 - i)
                valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
                offset = (way * T + t) * D + d
                dt = tl.load(delta + offset, mask=valid, other=0.0)
                x = tl.load(u + offset, mask=valid, other=0.0).to(tl.float32)
                gate = tl.load(z + t * z_row + d, mask=valid, other=0.0).to(tl.float32)
                dout = tl.load(grad + t * D + d, mask=valid, other=0.0).to(tl.float32)
                b = tl.load(B + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
                c = tl.load(C + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
                opened = sigmoid(gate)
                dy = dout * gate * opened
                s = handed + c * dy[None, :]
                through = tl.load(skip + way * D + d, mask=real, other=0.0)  # here: all registers are taken
                y = tl.sum(c * state, axis=0) + through * x
                dc = tl.sum(state * dy[None, :], axis=1, keep_dims=True)
                state = before[TILE - 1 - back]
                handed = s * tl.exp2(a * dt[None, :] + dropping(step, way, t, T))
                forgets = handed * state  # gradient of delta A
                grad_drive = tl.sum(s * b, axis=0)
                grad_dt = grad_drive * x + tl.sum(forgets * a, axis=0) * LN_2
                grad_raw = grad_dt * slope_of_softplus(dt)
                grad_a += forgets * dt[None, :]
                grad_skip += dy * x
                grad_bias += grad_raw
                into = dbc + ((block * 2 + way) * T + t) * 2 * N + n
                tl.store(into, tl.sum(s * (dt * x)[None, :], axis=1, keep_dims=True), mask=states)
                tl.store(into + N, dc, mask=states)
                tl.store(du + offset, (grad_drive * dt + dy * through).to(du.dtype.element_ty), mask=valid)
                tl.store(draw + offset, grad_raw.to(draw.dtype.element_ty), mask=valid)
                share = dout * y * opened * (1.0 + gate * (1.0 - opened))
                if way == 1:
                    share += tl.load(dz + t * D + d, mask=valid, other=0.0).to(tl.float32)
                tl.store(dz + t * D + d, share.to(dz.dtype.element_ty), mask=valid)
        sums = shared + (span * 2 + way) * (N + 2) * D + d
        tl.store(sums[None, :] + n * D, grad_a, mask=real[None, :])
        tl.store(sums + N * D, grad_skip, mask=real)
        tl.store(sums + (N + 1) * D, grad_bias, mask=real)
        tl.debug_barrier()  # a thread may read what another thread wrote

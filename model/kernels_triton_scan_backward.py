"""Triton kernels of the selective scan: gradients. Names and layout as in `kernels_triton_scan.py`.

No state of every position is ever stored: the forward pass keeps those that enter each `KEEP` positions. `reach_back`
and `carry` compute the gradients of the states that leave the spans, and `retreat` goes through a span from its end,
`TILE` positions at a time: it runs the scan from the last kept state up to the tile, holds the tile's states in
registers, and steps back through them. (Dividing by the decay would lose all digits where a state is forgotten.)

With s_t the gradient of h_t and g_t = exp(delta_t A) s_t the part of it that reaches h_{t-1},
    s_t = dy_t C_t + g_{t+1};  dB_t = sum_d s_t delta_t u_t;  dC_t = sum_d dy_t h_t;
    d(delta_t u_t) = sum_n s_t B_t;  d(delta_t A) = g_t h_{t-1}.
"""

from .kernels_triton import LN_2, LOG2_E, dropping, end_of_range, launched, sigmoid, time_step, tl, triton


@launched
def reach_back(
    grad, raw, C, z, dt_bias, rate, step, ends,
    T, D, row, z_row, N: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient each span hands to the span read before it, from zeros. Grid (spans, ceil(D / WIDTH), 2).

    grad (T, D) is the gradient of `out`; writes ends (spans, 2, N, D).
    """
    span, way = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
    bias = tl.load(dt_bias + way * D + d, mask=real, other=0.0)
    handed = tl.zeros([N, WIDTH], tl.float32)
    base = way * T + span * SPAN
    left = tl.minimum(T - span * SPAN, SPAN).to(tl.int32)
    raw, C, step = raw + base * D, C + base * row, step + base
    z, grad = z + span * SPAN * z_row, grad + span * SPAN * D
    for i in range(SPAN):
        r = tl.where(way == 0, SPAN - 1 - i, i)
        valid, states = d < tl.where(r < left, D, 0), n < tl.where(r < left, N, 0)
        dt = time_step(raw, r * D + d, bias, valid)
        gate = tl.load(z + r * z_row + d, mask=valid, other=0.0).to(tl.float32)
        dy = tl.load(grad + r * D + d, mask=valid, other=0.0).to(tl.float32) * gate * sigmoid(gate)
        c = tl.load(C + r * row + n, mask=states, other=0.0).to(tl.float32)
        handed += c * dy[None, :]
        handed *= tl.exp2(a * dt[None, :] + dropping(step, r, left))
    tl.store(ends + ((span * 2 + way) * N + n) * D + d[None, :], handed, mask=real[None, :])


@triton.jit
def advance(state, a, u, raw, B, bias, step, r, left, n, d, D, row, before, N: tl.constexpr):
    """The state after position r, from the state before it; and delta_r.

    B and step begin at the span's direction, and u and raw `before` numbers earlier.
    """
    valid, states = d < tl.where(r < left, D, 0), n < tl.where(r < left, N, 0)
    dt = time_step(raw, before + (r * D + d), bias, valid)
    x = tl.load(u + (before + (r * D + d)), mask=valid, other=0.0).to(tl.float32)
    b = tl.load(B + r * row + n, mask=states, other=0.0).to(tl.float32)
    return state * tl.exp2(a * dt[None, :] + dropping(step, r, left)) + b * (dt * x)[None, :], dt


@triton.jit
def slope_of_softplus(y):
    """The derivative of softplus where its value is y: 1 - e^-y, by a series where the difference would lose digits."""
    return tl.where(y < 0.03, y * (1.0 - y * (0.5 - y * (1.0 / 6.0 - y / 24.0))), 1.0 - tl.exp2(y * -LOG2_E))


@launched
def retreat(
    grad, u, raw, B, C, z, dt_bias, rate, skip, step, kept, leaving, sums,
    du, draw, dbc, dz, shared,
    T, D, row, z_row,
    N: tl.constexpr, SPAN: tl.constexpr, KEEP: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """All gradients of `emit`. Grid (spans, ceil(D / (GROUP WIDTH))).

    kept and sums from `emit`; leaving (spans, 2, N, D) from `carry`. Writes du, draw (2, T, D); dz (T, D); dbc (groups,
    2, T, 2 N) float32, sums of dB and dC over the channels of a program, which takes them WIDTH at a time; and shared
    (spans, 2 N + 4, D) float32, partial sums of the gradients of the rows of `scan_rows`.
    """
    span, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.arange(0, N)[:, None]
    left = tl.minimum(T - span * SPAN, SPAN).to(tl.int32)
    for both in range(2 * GROUP):
        way, block = both % 2, both // 2
        d = (group * GROUP + block) * WIDTH + tl.arange(0, WIDTH)
        real = d < D
        own = tl.where(real, d, 0)[None, :]  # as in `emit`
        a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
        bias = tl.load(dt_bias + way * D + d, mask=real, other=0.0)
        handed = tl.load(leaving + ((span * 2 + way) * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
        base = way * T + span * SPAN
        steps, rows, columns = step + base, B + base * row, C + base * row
        grad_a = tl.zeros([N, WIDTH], tl.float32)
        grad_skip = tl.zeros([WIDTH], tl.float32)
        grad_bias = tl.zeros([WIDTH], tl.float32)
        for tile in range(SPAN // TILE):
            first = SPAN - (tile + 1) * TILE  # first position of the tile, as the direction reads
            part = first // KEEP
            place = (span * (SPAN // KEEP) + tl.where(way == 0, part, SPAN // KEEP - 1 - part)) * 2 + way
            state = tl.load(kept + (place * N + n) * D + own, mask=real[None, :], other=0.0).to(tl.float32)
            for i in range(end_of_range(part * KEEP), end_of_range(first)):
                r = tl.where(way == 0, i, SPAN - 1 - i)
                state, _ = advance(state, a, u, raw, rows, bias, steps, r, left, n, d, D, row, base * D, N)
            before = ()  # the state that enters each position
            for k in tl.static_range(TILE):
                r = tl.where(way == 0, first + k, SPAN - 1 - first - k)
                before = before + (state,)
                state, _ = advance(state, a, u, raw, rows, bias, steps, r, left, n, d, D, row, base * D, N)
            for back in tl.static_range(TILE):
                r = tl.where(way == 0, first + TILE - 1 - back, SPAN - first - TILE + back)
                valid, states = d < tl.where(r < left, D, 0), n < tl.where(r < left, N, 0)
                # offsets from pointers that the kernel was given, and delta again: all registers are taken
                of, at = base * D + (r * D + d), span * SPAN * D + (r * D + d)
                dt = time_step(raw, of, bias, valid)
                x = tl.load(u + of, mask=valid, other=0.0).to(tl.float32)
                gate = tl.load(z + (span * SPAN + r) * z_row + d, mask=valid, other=0.0).to(tl.float32)
                dout = tl.load(grad + at, mask=valid, other=0.0).to(tl.float32)
                b = tl.load(rows + r * row + n, mask=states, other=0.0).to(tl.float32)
                c = tl.load(columns + r * row + n, mask=states, other=0.0).to(tl.float32)
                opened = sigmoid(gate)
                dy = dout * gate * opened
                s = handed + c * dy[None, :]
                through = tl.load(skip + way * D + d, mask=real, other=0.0)
                into = dbc + (group * 2 * T + base + r) * 2 * N + n
                others = states & (block > 0)  # the channels before these have left their sums
                dc = tl.load(into + N, mask=others, other=0.0)
                dc += tl.sum(state * dy[None, :], axis=1, keep_dims=True)
                db = tl.load(into, mask=others, other=0.0)
                db += tl.sum(s * (dt * x)[None, :], axis=1, keep_dims=True)
                state = before[TILE - 1 - back]
                handed = s * tl.exp2(a * dt[None, :] + dropping(steps, r, left))
                forgets = handed * state  # gradient of delta A
                grad_drive = tl.sum(s * b, axis=0)
                grad_dt = grad_drive * x + tl.sum(forgets * a, axis=0) * LN_2
                grad_raw = grad_dt * slope_of_softplus(dt)
                grad_a += forgets * dt[None, :]
                grad_skip += dy * x
                grad_bias += grad_raw
                tl.store(into, db, mask=states)
                tl.store(into + N, dc, mask=states)
                tl.store(du + of, (grad_drive * dt + dy * through).to(du.dtype.element_ty), mask=valid)
                tl.store(draw + of, grad_raw.to(draw.dtype.element_ty), mask=valid)
                if way == 0:
                    y = tl.load(sums + at, mask=valid, other=0.0).to(tl.float32)
                    share = dout * y * opened * (1.0 + gate * (1.0 - opened))
                    tl.store(dz + at, share.to(dz.dtype.element_ty), mask=valid)
        own = shared + span * (2 * N + 4) * D + d
        tl.store(own[None, :] + (way * N + n) * D, grad_a * LN_2, mask=real[None, :])
        tl.store(own + (2 * N + way) * D, grad_skip, mask=real)
        tl.store(own + (2 * N + 2 + way) * D, grad_bias, mask=real)
        tl.debug_barrier()  # a thread may read what another thread wrote

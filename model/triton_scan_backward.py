"""Triton kernels of the selective scan: gradients. Names and layout as in `triton_scan.py`.

Nothing per position and state is ever stored. The states each chunk is entered with are kept from the forward pass;
`reach_back` and `carry` find the gradients with which each chunk is left, and `retreat` goes through a chunk from its
end, `TILE` positions at a time: it runs the scan from the chunk's start up to the tile, holds the tile's states in
registers, and steps back through them. (No inverse of the decay: it would lose all digits where a state is forgotten.)

With s_t the gradient of h_t and g_t = exp(delta_t A) s_t what the position before gets of it,
    s_t = dy_t C_t + g_{t+1};  dB_t = sum_d s_t delta_t u_t;  dC_t = sum_d dy_t h_t;
    d(delta_t u_t) = sum_n s_t B_t;  d(delta_t A) = g_t h_{t-1}.
"""

from typing import Any

from .triton_scan import dropping, pick, sigmoid, time_step, tl, triton

LN_2: Any = tl.constexpr(0.6931471805599453)


@triton.jit
def reach_back(
    grad, raw, C, z, dt_bias, rate, step, ends,
    T, D, row, z_row, N: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip  # type: ignore[no-untyped-def]
    """The gradient each chunk hands to the one read before it, from zeros. Grid (chunks, ceil(D / WIDTH), 2).

    grad (T, D) is that of `out`; writes ends (chunks, 2, N, D).
    """
    chunk, way = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
    bias = tl.load(dt_bias + way * D + d, mask=real, other=0.0)
    handed = tl.zeros([N, WIDTH], tl.float32)
    for i in range(CHUNK):
        t = chunk * CHUNK + tl.where(way == 0, CHUNK - 1 - i, i)
        valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
        delta, _ = time_step(raw, (way * T + t) * D + d, bias, valid)
        gate = tl.load(z + t * z_row + d, mask=valid, other=0.0).to(tl.float32)
        dy = tl.load(grad + t * D + d, mask=valid, other=0.0).to(tl.float32) * gate * sigmoid(gate)
        c = tl.load(C + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
        handed += c * dy[None, :]
        handed *= tl.exp2(a * delta[None, :] + dropping(step, way, t, T))
    tl.store(ends + ((chunk * 2 + way) * N + n) * D + d[None, :], handed, mask=real[None, :])


@triton.jit
def retreat(
    grad, u, raw, B, C, z, dt_bias, rate, skip, step, entering, leaving,
    du, draw, dbc, dz, shared,
    T, D, row, z_row,
    N: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip  # type: ignore[no-untyped-def]
    """All gradients of `emit`. Grid (chunks, ceil(D / WIDTH)).

    entering, leaving (chunks, 2, N, D) from `carry`, forward and back. Writes du, draw (2, T, D); dz (T, D), where the
    first direction leaves its share for the second; dbc (ceil(D / WIDTH), 2, T, 2 N) float32, shares of dB and dC; and
    shared (chunks, 2, N + 2, D) float32, shares of the gradients of A, of skip and of dt_bias.
    """
    chunk, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = block * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    rows = tl.arange(0, TILE)[:, None, None]
    for way in tl.static_range(2):
        a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
        bias = tl.load(dt_bias + way * D + d, mask=real, other=0.0)
        through = tl.load(skip + way * D + d, mask=real, other=0.0)
        place = ((chunk * 2 + way) * N + n) * D + d[None, :]
        handed = tl.load(leaving + place, mask=real[None, :], other=0.0)
        grad_a = tl.zeros([N, WIDTH], tl.float32)
        grad_skip = tl.zeros([WIDTH], tl.float32)
        grad_bias = tl.zeros([WIDTH], tl.float32)
        for tile in range(CHUNK // TILE):
            first = CHUNK - (tile + 1) * TILE  # of the tile, as the direction reads
            state = tl.load(entering + place, mask=real[None, :], other=0.0)
            for i in range(first):
                t = chunk * CHUNK + (i if way == 0 else CHUNK - 1 - i)
                valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
                offset = (way * T + t) * D + d
                delta, _ = time_step(raw, offset, bias, valid)
                drive = delta * tl.load(u + offset, mask=valid, other=0.0).to(tl.float32)
                b = tl.load(B + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
                state = state * tl.exp2(a * delta[None, :] + dropping(step, way, t, T)) + b * drive[None, :]
            before = tl.zeros([TILE, N, WIDTH], tl.float32)  # the state that enters each position
            for k in tl.static_range(TILE):
                i = first + k
                t = chunk * CHUNK + (i if way == 0 else CHUNK - 1 - i)
                valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
                offset = (way * T + t) * D + d
                delta, _ = time_step(raw, offset, bias, valid)
                drive = delta * tl.load(u + offset, mask=valid, other=0.0).to(tl.float32)
                b = tl.load(B + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
                before = tl.where(rows == k, state[None, :, :], before)
                state = state * tl.exp2(a * delta[None, :] + dropping(step, way, t, T)) + b * drive[None, :]
            for back in tl.static_range(TILE):
                i = first + TILE - 1 - back
                t = chunk * CHUNK + (i if way == 0 else CHUNK - 1 - i)
                valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
                offset = (way * T + t) * D + d
                delta, x = time_step(raw, offset, bias, valid)
                value = tl.load(u + offset, mask=valid, other=0.0).to(tl.float32)
                gate = tl.load(z + t * z_row + d, mask=valid, other=0.0).to(tl.float32)
                dout = tl.load(grad + t * D + d, mask=valid, other=0.0).to(tl.float32)
                b = tl.load(B + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
                c = tl.load(C + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
                open_ = sigmoid(gate)
                dy = dout * gate * open_
                entered = pick(before, rows == TILE - 1 - back)
                decay = tl.exp2(a * delta[None, :] + dropping(step, way, t, T))
                drive = (delta * value)[None, :]
                reached = decay * entered + b * drive
                s = handed + c * dy[None, :]
                handed = decay * s
                forgets = handed * entered  # gradient of the exponent, natural
                grad_drive = tl.sum(s * b, axis=0)
                grad_delta = grad_drive * value + tl.sum(forgets * a, axis=0) * LN_2
                grad_x = grad_delta * sigmoid(x)
                grad_a += forgets * delta[None, :]
                grad_skip += dy * value
                grad_bias += tl.where(valid, grad_x, 0.0)
                into = dbc + ((block * 2 + way) * T + t) * 2 * N + n
                tl.store(into, tl.sum(s * drive, axis=1, keep_dims=True), mask=states)
                tl.store(into + N, tl.sum(reached * dy[None, :], axis=1, keep_dims=True), mask=states)
                tl.store(du + offset, (grad_drive * delta + dy * through).to(du.dtype.element_ty), mask=valid)
                tl.store(draw + offset, grad_x.to(draw.dtype.element_ty), mask=valid)
                y = tl.sum(c * reached, axis=0) + through * value
                share = dout * y * open_ * (1.0 + gate * (1.0 - open_))
                if way == 1:
                    share += tl.load(dz + t * D + d, mask=valid, other=0.0).to(tl.float32)
                tl.store(dz + t * D + d, share.to(dz.dtype.element_ty), mask=valid)
        sums = shared + (chunk * 2 + way) * (N + 2) * D + d
        tl.store(sums[None, :] + n * D, grad_a, mask=real[None, :])
        tl.store(sums + N * D, grad_skip, mask=real)
        tl.store(sums + (N + 1) * D, grad_bias, mask=real)
        tl.debug_barrier()  # a thread may read what another one wrote

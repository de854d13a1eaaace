"""Triton kernels of the selective scan: gradients. Names and layout as in `kernels_triton_scan.py`.

The forward pass keeps the states that enter each `KEEP` positions, in the order in which a direction reads them.
`reach_back` and `carry` compute the gradients of the states that leave the spans, and `retreat` goes through a span
from its end, `KEEP` positions at a time: it runs the scan from the kept state, leaves the states of these positions in
memory that only the program uses (so small that it stays in the caches), and steps back through them. (Dividing by the
decay would lose all digits where a state is forgotten.)

With s_t the gradient of h_t and g_t = exp(delta_t A) s_t the part of it that reaches h_{t-1},
    s_t = dy_t C_t + g_{t+1};  dB_t = sum_d s_t delta_t u_t;  dC_t = sum_d dy_t h_t;
    d(delta_t u_t) = sum_n s_t B_t;  d(delta_t A) = g_t h_{t-1}.
"""

from .kernels_triton import (
    LN_2,
    LOG2_E,
    channels,
    dropping,
    end_of_range,
    exp2,
    launched,
    opening,
    softplus,
    tl,
    triton,
    widened,
)


@triton.jit
def halves(x):
    """The even and the odd columns of x (R, W), each (R, W / 2)."""
    return tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))


@triton.jit
def upper_and_lower(x):
    """The first and the last half of the rows of x (R, W), each (R / 2, W)."""
    return tl.split(tl.permute(tl.reshape(x, [2, x.shape[0] // 2, x.shape[1]]), [1, 2, 0]))


@triton.jit
def columns(x, COUNT: tl.constexpr):
    """The columns of x (R, W) in COUNT parts, 4 or 8, each (R, W / COUNT)."""
    a, b = halves(x)
    aa, ab = halves(a)
    ba, bb = halves(b)
    if COUNT == 4:
        return aa, ab, ba, bb
    else:  # noqa: RET505 (Triton compiles what follows a `return`)
        return halves(aa) + halves(ab) + halves(ba) + halves(bb)


@triton.jit
def quarters(x):
    """The rows of x (R, W) in four parts (R / 4, W)."""
    a, b = upper_and_lower(x)
    return upper_and_lower(a) + upper_and_lower(b)


@triton.jit
def over_columns(x):
    """The sum of the columns of x (R, W), as (R,).

    The columns pass once through shared memory; then a thread has whole rows and adds them alone. With `tl.sum`
    threads exchange every number in each step of a tree, and all of them compute every sum.
    """
    for _ in tl.static_range(8):  # W is 256 at most
        if x.shape[1] > 1:
            left, right = halves(x)
            x = left + right
    return tl.reshape(x, [x.shape[0]])


@triton.jit
def over_channels(x, y, OWN: tl.constexpr):
    """sum_d x y (N,) of x (N, WIDTH) and y (1, WIDTH). A thread holds OWN neighbours of a row, 4 or 8.

    It adds their products one by one, and each product with its sum is one instruction; `tl.sum` alone adds them in a
    tree, where this holds for every other product. To take values of one thread apart needs no instruction.
    """
    if x.shape[1] % OWN:
        return over_columns(x * y)
    left, right = columns(x, OWN), columns(y, OWN)
    total = left[0] * right[0]
    for i in tl.static_range(1, OWN):
        total += left[i] * right[i]
    return over_columns(total)


@triton.jit
def over_states(x, y):
    """sum_n x y (WIDTH,) of x (N, WIDTH) and y (N, WIDTH) or (N, 1); as `over_channels`."""
    if x.shape[0] % 4:
        return over_columns(tl.trans(x * y))
    left, right = quarters(x), quarters(y)
    total = left[0] * right[0]
    for i in tl.static_range(1, 4):
        total += left[i] * right[i]
    return over_columns(tl.trans(total))


@triton.jit
def place_of_kept(part, way, block, D: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr):
    """Where `kept` (parts, 2, ceil(D / WIDTH), N, WIDTH) holds the states of a block of channels."""
    return ((part * 2 + way) * ((D + WIDTH - 1) // WIDTH) + block) * (N * WIDTH)


@triton.jit
def advance(state, a, u, raw, B, bias, step, r, n, d, D, row, SHARED: tl.constexpr = False):
    """The state after position r, from the state before it; and delta_r and u_r. SHARED as in `exp2`."""
    dt = softplus(widened(tl.load(raw + (r * D + d))) + bias)
    x = widened(tl.load(u + (r * D + d)))
    b = tl.load(B + r * row + n).to(tl.float32)
    return state * exp2(a * dt[None, :] + dropping(step, r), SHARED) + b * (dt * x)[None, :], dt, x


@launched
def reach_back(
    grad, raw, C, z, dt_bias, rate, step, ends,
    T, D: tl.constexpr, row, z_row, N: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient each span hands to the span read before it, from zeros. Grid (spans, ceil(D / WIDTH), 2).

    grad (T, D) is the gradient of `out`; writes ends (spans, 2, N, D). Positions of sequences that begin in the span
    hand nothing on: they are left out.
    """
    span, way = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d, real = channels(tl.program_id(1), D, WIDTH)
    n = tl.arange(0, N)[:, None]
    a = tl.load(rate + ((way * N + n) * D + d[None, :]))
    bias = tl.load(dt_bias + way * D + d)
    handed = tl.zeros([N, WIDTH], tl.float32)
    base = way * T + span * SPAN
    left = tl.minimum(T - span * SPAN, SPAN).to(tl.int32)
    raw, C = raw + base * D, C + base * row
    z, grad = z + span * SPAN * z_row, grad + span * SPAN * D
    first = tl.where(way == 0, 0, left - 1)  # that the direction reads; the other's `step` says how many follow it
    count = tl.minimum(left, tl.load(step + ((1 - way) * T + span * SPAN + first)) + 1)
    step += base
    count = tl.where(tl.load(step + first) == 0, 0, count)
    for i in range(end_of_range(left - count), end_of_range(left)):
        r = tl.where(way == 0, left - 1 - i, i)
        dt = softplus(widened(tl.load(raw + (r * D + d))) + bias)
        gate = widened(tl.load(z + (r * z_row + d)))
        dy = widened(tl.load(grad + (r * D + d))) * gate * opening(gate)
        c = tl.load(C + r * row + n).to(tl.float32)
        handed = (handed + c * dy[None, :]) * exp2(a * dt[None, :] + dropping(step, r), SHARED=True)
    tl.store(ends + ((span * 2 + way) * N + n) * D + d[None, :], handed, mask=real[None, :])


@triton.jit
def slope_of_softplus(y):
    """The derivative of softplus where its value is y: 1 - e^-y, by a series where the difference would lose digits."""
    return tl.where(y < 0.03, y * (1.0 - y * (0.5 - y * (1.0 / 6.0 - y / 24.0))), 1.0 - tl.exp2(y * -LOG2_E))


@launched
def retreat(
    grad, u, raw, B, C, z, dt_bias, rate, skip, step, kept, leaving, sums, held, times,
    du, draw, dbc, dz, shared,
    T, D: tl.constexpr, row, z_row,
    N: tl.constexpr, SPAN: tl.constexpr, KEEP: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """All gradients of `emit`. Grid (2 spans, ceil(D / WIDTH)); a program has one direction.

    kept and sums from `emit`; leaving (spans, 2, N, D) from `carry`. Writes du, draw (2, T, D); dz (T, D); dbc (blocks,
    2, T, N, 2), sums of dB and dC over the channels of a program; and shared (spans, 2 N + 4, D) float32,
    partial sums of the gradients of the rows of `scan_rows`. held (programs, KEEP, N, WIDTH) and times (programs, KEEP,
    WIDTH) float32 are the memory of a program: the states before each position, in the precision of `kept`, and the
    time steps.
    """
    span, way, block = (tl.program_id(0) // 2).to(tl.int64), tl.program_id(0) % 2, tl.program_id(1)
    n, lane = tl.arange(0, N)[:, None], tl.arange(0, WIDTH)
    left = tl.minimum(T - span * SPAN, SPAN).to(tl.int32)
    start, onward = way * (left - 1), 1 - 2 * way
    base = way * T + span * SPAN
    program = (tl.program_id(0) * tl.num_programs(1) + block).to(tl.int64)
    held, times = held + program * (KEEP * N * WIDTH), times + program * (KEEP * WIDTH)
    step, B, C = step + base, B + base * row, C + base * row
    u, raw, du, draw = u + base * D, raw + base * D, du + base * D, draw + base * D
    z, grad, sums, dz = z + span * SPAN * z_row, grad + span * SPAN * D, sums + span * SPAN * D, dz + span * SPAN * D
    dbc += (block * 2 * T + base) * 2 * N
    shared += span * (2 * N + 4) * D
    d, real = channels(block, D, WIDTH)
    a = tl.load(rate + ((way * N + n) * D + d[None, :]))
    bias = tl.load(dt_bias + way * D + d)
    through = tl.load(skip + way * D + d)
    handed = tl.load(leaving + (((span * 2 + way) * N + n) * D + d[None, :]))
    grad_a = tl.zeros([N, WIDTH], tl.float32)
    grad_skip = tl.zeros([WIDTH], tl.float32)
    grad_bias = tl.zeros([WIDTH], tl.float32)
    OWN: tl.constexpr = 128 // held.dtype.element_ty.primitive_bitwidth  # channels of a state that a thread loads
    parts = (left + KEEP - 1) // KEEP
    for behind in range(end_of_range(parts)):
        part = parts - 1 - behind
        first = part * KEEP
        count = tl.minimum(left - first, KEEP)
        place = place_of_kept(span * (SPAN // KEEP) + part, way, block, D, N, WIDTH)
        state = tl.load(kept + place + lane[None, :] + n * WIDTH).to(tl.float32)
        for k in range(end_of_range(count)):
            tl.store(held + k * (N * WIDTH) + lane[None, :] + n * WIDTH, state.to(held.dtype.element_ty))
            r = start + onward * (first + k)
            state, dt, _ = advance(state, a, u, raw, B, bias, step, r, n, d, D, row)
            tl.store(times + k * WIDTH + lane, dt)
        tl.debug_barrier()  # a thread may read what another thread wrote
        for j in range(end_of_range(count)):
            k = count - 1 - j
            r = start + onward * (first + k)
            at = r * D + d
            before = widened(tl.load(held + k * (N * WIDTH) + lane[None, :] + n * WIDTH))
            dt = tl.load(times + k * WIDTH + lane)
            x = widened(tl.load(u + at))
            gate = widened(tl.load(z + (r * z_row + d)))
            dout = widened(tl.load(grad + at))
            b = tl.load(B + r * row + n).to(tl.float32)
            c = tl.load(C + r * row + n).to(tl.float32)
            opened = opening(gate)
            dy, drive = dout * gate * opened, dt * x
            if D % WIDTH:
                dy, drive = tl.where(real, dy, 0.0), tl.where(real, drive, 0.0)
            s = handed + c * dy[None, :]
            dc = over_channels(state, dy[None, :], OWN)
            db = over_channels(s, drive[None, :], OWN)
            into = dbc + (r * (2 * N) + tl.arange(0, 2 * N))
            tl.store(into, tl.reshape(tl.join(db, dc), [2 * N]).to(dbc.dtype.element_ty))
            state = before
            handed = s * tl.exp2(a * dt[None, :] + dropping(step, r))
            forgets = handed * state  # gradient of delta A
            grad_drive = over_states(s, b)
            grad_dt = grad_drive * x + over_states(forgets, a) * LN_2
            grad_raw = grad_dt * slope_of_softplus(dt)
            grad_a += forgets * dt[None, :]
            grad_skip += dy * x
            grad_bias += grad_raw
            tl.store(du + at, (grad_drive * dt + dy * through).to(du.dtype.element_ty), mask=real)
            tl.store(draw + at, grad_raw.to(draw.dtype.element_ty), mask=real)
            if way == 0:
                y = widened(tl.load(sums + at))
                share = dout * y * opened * (1.0 + gate * (1.0 - opened))
                tl.store(dz + at, share.to(dz.dtype.element_ty), mask=real)
        tl.debug_barrier()
    own = shared + d
    tl.store(own[None, :] + (way * N + n) * D, grad_a * LN_2, mask=real[None, :])
    tl.store(own + (2 * N + way) * D, grad_skip, mask=real)
    tl.store(own + (2 * N + 2 + way) * D, grad_bias, mask=real)

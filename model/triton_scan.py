"""Triton kernels of the selective scan: both directions, forward.

A program steps through `CHUNK` positions of `WIDTH` channels with the (N, WIDTH) state in registers. Time lies in
three launches, so that a long sequence fills the card: what each chunk makes of a state of zeros (`reach`), the states
chunks are entered with (`carry`), the outputs (`emit`). Between direction 0, which reads forward, and direction 1,
which reads backward, only the order of positions and the sign of `step` differ: nothing is flipped in memory.

Names, in all kernels of the family: T packed positions, D channels, N states; `way` is the direction; `step` (2, T)
int32 counts a position's place in its sequence as each direction reads it, 0 where a sequence is entered, which is
where the state is dropped; `rate` is A log2(e), so that exp(delta A) is one exp2. What is per position and channel may
be of any precision; states are float32.

triton comes through importlib, so that Hugging Face's import check of exported models does not ask for it: this file is
imported where triton is (`kernels.py`).
"""

import importlib
from typing import Any

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")
# Of kernels that are launched, not called: another number of positions is no reason to compile again.
launched: Any = triton.jit(do_not_specialize=["T", "chunks"])


@triton.jit
def softplus(x):
    """log(1 + e^x), exact to rounding for small e^x: log(w) e / (w - 1) with w = 1 + e makes up for w's rounding."""
    e = tl.exp(x)  # where it overflows, the result is not taken
    w = 1.0 + e
    lost = w - 1.0
    small = tl.where(lost == 0.0, e, tl.log(w) * (e / tl.where(lost == 0.0, 1.0, lost)))
    return tl.where(x > 20.0, x, small)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def dropping(step, way, t, T):
    """What to add to the exponent of the decay at t: 0, or what makes it 0 where a sequence is entered."""
    place = tl.load(step + way * T + t, mask=t < T, other=1)
    return tl.where(place == 0, -1e30, 0.0)


@triton.jit
def time_step(raw, delta, offset, dt_bias, valid):
    """softplus(raw + dt_bias), written to `delta` too; 0 where there is no position, which leaves a state as it is."""
    x = tl.load(raw + offset, mask=valid, other=0.0).to(tl.float32) + dt_bias
    steps = tl.where(valid, softplus(x), 0.0)
    tl.store(delta + offset, steps, mask=valid)
    return steps


@launched
def reach(
    u, raw, B, dt_bias, rate, step, delta, ends, spans,
    T, D, row, N: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The state each chunk ends in, from zeros, and its summed time steps. Grid (chunks, ceil(D / WIDTH), 2).

    u, raw (2, T, D); B (2, T, N) with `row` from one position to the next and T * row from one direction to the other;
    rate (2, N, D); writes delta (2, T, D), ends (chunks, 2, N, D) and spans (chunks, 2, D) float32. (The softplus costs
    as much as the step itself, so later kernels read it.)
    """
    chunk, way = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
    bias = tl.load(dt_bias + way * D + d, mask=real, other=0.0)
    state = tl.zeros([N, WIDTH], tl.float32)
    span = tl.zeros([WIDTH], tl.float32)
    for i in range(CHUNK):
        t = chunk * CHUNK + tl.where(way == 0, i, CHUNK - 1 - i)
        valid, states = d < tl.where(t < T, D, 0), n < tl.where(t < T, N, 0)
        offset = (way * T + t) * D + d
        dt = time_step(raw, delta, offset, bias, valid)
        drive = dt * tl.load(u + offset, mask=valid, other=0.0).to(tl.float32)
        b = tl.load(B + (way * T + t) * row + n, mask=states, other=0.0).to(tl.float32)
        state = state * tl.exp2(a * dt[None, :] + dropping(step, way, t, T)) + b * drive[None, :]
        span += dt
    tl.store(ends + ((chunk * 2 + way) * N + n) * D + d[None, :], state, mask=real[None, :])
    tl.store(spans + (chunk * 2 + way) * D + d, span, mask=real)


@launched
def carry(
    ends, spans, rate, step,
    T, D, chunks, N: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr, AHEAD: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Turn, in place, what each chunk makes of zeros into what it is entered with. Grid (ceil(N D / WIDTH), 2).

    Chunks are taken in the order in which the direction reads them, or with BACK in the opposite one, that of
    gradients. AHEAD of them are loaded together. A chunk in which a sequence is entered lets nothing through.
    """
    way = tl.program_id(1)
    e = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    a = tl.load(rate + way * N * D + e, mask=e < N * D, other=0.0)
    rising = (way == 0) != BACK
    state = tl.zeros([WIDTH], tl.float32)
    for group in range(0, chunks, AHEAD):
        local, decay = (), ()
        for k in tl.static_range(AHEAD):
            chunk = tl.where(rising, group + k, chunks - 1 - group - k).to(tl.int64)
            there = e < tl.where(group + k < chunks, N * D, 0)
            count = tl.minimum(T - chunk * CHUNK, CHUNK)
            last = chunk * CHUNK + tl.where(way == 0, count - 1, 0)  # as the direction reads
            through = tl.load(step + way * T + last, mask=group + k < chunks, other=0) >= count
            span = tl.load(spans + (chunk * 2 + way) * D + e % D, mask=there, other=0.0)
            local = local + (tl.load(ends + (chunk * 2 + way) * N * D + e, mask=there, other=0.0),)
            decay = decay + (tl.where(through, tl.exp2(a * span), 0.0),)
        for k in tl.static_range(AHEAD):
            chunk = tl.where(rising, group + k, chunks - 1 - group - k).to(tl.int64)
            there = e < tl.where(group + k < chunks, N * D, 0)
            tl.store(ends + (chunk * 2 + way) * N * D + e, state, mask=there)
            state = local[k] + decay[k] * state


@launched
def emit(
    u, delta, B, C, z, rate, skip, step, entering, out,
    T, D, row, z_row, N: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out = (y_forward + y_backward) * SiLU(z), y = C h + D u. Grid (chunks, ceil(D / WIDTH)).

    z (T, D) with `z_row` from one position to the next, skip (2, D), entering from `carry`; writes out (T, D), where
    the first direction leaves its y for the second.
    """
    chunk = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)[:, None]
    real = d < D
    for way in range(2):
        a = tl.load(rate + (way * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
        through = tl.load(skip + way * D + d, mask=real, other=0.0)
        state = tl.load(entering + ((chunk * 2 + way) * N + n) * D + d[None, :], mask=real[None, :], other=0.0)
        for i in range(CHUNK):
            t = chunk * CHUNK + tl.where(way == 0, i, CHUNK - 1 - i)
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
        tl.debug_barrier()  # a thread may read what another one wrote

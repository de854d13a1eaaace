"""The compiled CPU loops: selective scan, depthwise convolution with SiLU, gated smoothing, forward and backward.

Every loop runs one *task*, a stretch of channels of one sequence, and releases the GIL, so that a plain Python
thread pool spreads tasks over cores (`kernels_cpu.py`). Inside a task time is the outer loop and channels the inner
one: the channels lie side by side in memory and LLVM turns the inner loops into vector instructions. Each task
writes the gradients of shared tensors (A, B, C, D, filters) to a row of its own; rows are summed afterwards in a fixed
order, so that results depend neither on the number of threads nor on their timing.

Arrays are C-contiguous float32. `start`, `stop` are the packed borders of the sequence, `low`, `high` those of the
channels. `reverse` walks time backwards; nothing is ever flipped in memory.

numba comes through importlib, so that Hugging Face's import check of exported models does not ask for it; without
it the functions below stay plain Python and `AVAILABLE` is False.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    numba: Any = importlib.import_module("numba")
except ImportError:  # absent, or refused by the installed numpy
    numba = None
AVAILABLE = numba is not None
SCAN_STRIDE = 32  # time steps between stored states; the backward pass recomputes the steps in between
CONV_WIDTH = 4
LOG2_E = np.float32(1.4426950408889634)

Array = Any  # numpy arrays here; numba infers the rest


def compiled(reassociate: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` without the GIL and with a disk cache; the identity where numba is missing."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if numba is None:
            return function
        # Reassociation lets LLVM vectorise sums; NaN and infinity keep their meaning, so that guards still see them.
        flags = {"contract", "nsz", "arcp"} | ({"reassoc"} if reassociate else set())
        return numba.njit(nogil=True, cache=True, fastmath=flags, error_model="numpy")(function)

    return decorate


@compiled(reassociate=False)
def exp2_negative(y: Any) -> Any:
    """2^y for y <= 0 in float32, relative error below 2e-7: 2^i through the exponent bits times a polynomial of 2^f.

    Adding 1.5 * 2^23 rounds y to the integer i and leaves i in the low bits; reassociation would undo the rounding.
    The polynomial is exact at 0, where decays near 1 would add up its error; elsewhere it is off by 9.2e-8 at most.
    """
    y = max(y, np.float32(-126.0))
    rounded = y + np.float32(12582912.0)
    f = y - (rounded - np.float32(12582912.0))
    p = np.float32(9.67151299e-3) + f * np.float32(1.32647273e-3)
    p = np.float32(5.55073358e-2) + f * p
    p = np.float32(2.40222424e-1) + f * p
    p = np.float32(6.93147004e-1) + f * p
    p = np.float32(1.0) + f * p
    return np.int32(np.float32(p).view(np.int32) + (np.float32(rounded).view(np.int32) << np.int32(23))).view(
        np.float32
    )


@compiled()
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) in float32 without overflow."""
    e = exp2_negative(-abs(x) * LOG2_E)
    positive = np.float32(1.0) / (np.float32(1.0) + e)
    return positive if x >= np.float32(0.0) else e * positive


@compiled()
def block(whole: Array, low: int, high: int) -> Array:
    """A copy of the columns low to high. (Slices would do, but numba takes seconds to compile them.)"""
    part = np.empty((whole.shape[0], high - low), np.float32)
    for row in range(whole.shape[0]):
        for j in range(high - low):
            part[row, j] = whole[row, low + j]
    return part


@compiled()
def unblock(whole: Array, low: int, high: int, part: Array) -> None:
    """Write the columns low to high."""
    for row in range(whole.shape[0]):
        for j in range(high - low):
            whole[row, low + j] = part[row, j]


@compiled()
def scan_forward(
    u: Array,
    delta: Array,
    a: Array,
    b: Array,
    c: Array,
    d: Array,
    y: Array,
    states: Array,
    state_row: int,
    start: int,
    stop: int,
    low: int,
    high: int,
    reverse: bool,
    keep: bool,
) -> None:
    """h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t;  y_t = C_t h_t + D u_t, for one sequence and channel stretch.

    u, delta, y (T, D); a (N, D): A transposed times log2 e; b, c (T, N); d (D,). With `keep`, the state before
    every SCAN_STRIDE-th step is stored in states (rows, N, D) from row `state_row` on.
    """
    n_state = a.shape[0]
    width = high - low
    h = np.zeros((n_state, width), np.float32)
    rate = block(a, low, high)
    step = np.empty(width, np.float32)
    drive = np.empty(width, np.float32)
    out = np.empty(width, np.float32)
    for i in range(stop - start):
        t = stop - 1 - i if reverse else start + i
        if keep and i % SCAN_STRIDE == 0:
            row = state_row + i // SCAN_STRIDE
            for n in range(n_state):
                for j in range(width):
                    states[row, n, low + j] = h[n, j]
        for j in range(width):
            step[j] = delta[t, low + j]
            drive[j] = delta[t, low + j] * u[t, low + j]
            out[j] = d[low + j] * u[t, low + j]
        for n in range(n_state):
            bn = b[t, n]
            cn = c[t, n]
            for j in range(width):
                new = exp2_negative(step[j] * rate[n, j]) * h[n, j] + drive[j] * bn
                h[n, j] = new
                out[j] += new * cn
        for j in range(width):
            y[t, low + j] = out[j]


@compiled()
def scan_backward(
    dy: Array,
    u: Array,
    delta: Array,
    a: Array,
    b: Array,
    c: Array,
    d: Array,
    states: Array,
    du: Array,
    ddelta: Array,
    da: Array,
    db: Array,
    dc: Array,
    dd: Array,
    state_row: int,
    start: int,
    stop: int,
    low: int,
    high: int,
    reverse: bool,
) -> None:
    """Gradients of `scan_forward`: states are recomputed SCAN_STRIDE steps at a time from the stored ones.

    With s_t the gradient of h_t: s_t = dy_t C_t + exp(delta_{t+1} A) s_{t+1}. Writes du, ddelta (T, D); db, dc
    (T, N), this task's partial sums; da (N, D) and dd (D,), this sequence's partial sums, for the task's channels.
    da is the gradient of A itself, transposed.
    """
    n_state = a.shape[0]
    width = high - low
    length = stop - start
    rate = block(a, low, high)
    s = np.zeros((n_state, width), np.float32)
    grad_rate = np.zeros((n_state, width), np.float32)
    grad_skip = np.zeros(width, np.float32)
    before = np.empty((SCAN_STRIDE + 1, n_state, width), np.float32)  # before[k] is the state entering step k
    decay = np.empty((SCAN_STRIDE, n_state, width), np.float32)
    step = np.empty(width, np.float32)
    drive = np.empty(width, np.float32)
    grad_out = np.empty(width, np.float32)
    grad_drive = np.empty(width, np.float32)
    grad_step = np.empty(width, np.float32)
    for piece in range((length + SCAN_STRIDE - 1) // SCAN_STRIDE - 1, -1, -1):
        first = piece * SCAN_STRIDE
        count = min(SCAN_STRIDE, length - first)
        for n in range(n_state):
            for j in range(width):
                before[0, n, j] = states[state_row + piece, n, low + j]
        for k in range(count):
            t = stop - 1 - first - k if reverse else start + first + k
            for j in range(width):
                step[j] = delta[t, low + j]
                drive[j] = delta[t, low + j] * u[t, low + j]
            for n in range(n_state):
                bn = b[t, n]
                for j in range(width):
                    e = exp2_negative(step[j] * rate[n, j])
                    decay[k, n, j] = e
                    before[k + 1, n, j] = e * before[k, n, j] + drive[j] * bn
        for k in range(count - 1, -1, -1):
            t = stop - 1 - first - k if reverse else start + first + k
            for j in range(width):
                step[j] = delta[t, low + j]
                drive[j] = delta[t, low + j] * u[t, low + j]
                grad_out[j] = dy[t, low + j]
                grad_drive[j] = np.float32(0.0)
                grad_step[j] = np.float32(0.0)
            for n in range(n_state):
                bn = b[t, n]
                cn = c[t, n]
                sum_b = np.float32(0.0)
                sum_c = np.float32(0.0)
                for j in range(width):
                    g = s[n, j] + grad_out[j] * cn
                    sum_c += grad_out[j] * before[k + 1, n, j]
                    sum_b += g * drive[j]
                    grad_drive[j] += g * bn
                    g *= decay[k, n, j]
                    s[n, j] = g
                    g *= before[k, n, j]
                    grad_step[j] += g * rate[n, j]
                    grad_rate[n, j] += g * step[j]
                db[t, n] = sum_b
                dc[t, n] = sum_c
            for j in range(width):
                du[t, low + j] = grad_drive[j] * step[j] + grad_out[j] * d[low + j]
                ddelta[t, low + j] = grad_drive[j] * u[t, low + j] + grad_step[j] / LOG2_E
                grad_skip[j] += grad_out[j] * u[t, low + j]
    unblock(da, low, high, grad_rate)
    for j in range(width):
        dd[low + j] = grad_skip[j]


@compiled()
def conv_silu_forward(
    x: Array, weight: Array, bias: Array, y: Array, start: int, stop: int, low: int, high: int, reverse: bool
) -> None:
    """y_t = SiLU(bias + sum_k weight[k] x_{t-k}); `reverse` looks at t+k. x, y (T, D); weight (4, D); bias (D,)."""
    width = high - low
    taps = block(weight, low, high)
    x0, x1 = np.zeros(width, np.float32), np.zeros(width, np.float32)  # x_t, x_{t-1}, x_{t-2}, x_{t-3}
    x2, x3 = np.zeros(width, np.float32), np.zeros(width, np.float32)
    out = np.empty(width, np.float32)
    for i in range(stop - start):
        t = stop - 1 - i if reverse else start + i
        x0, x1, x2, x3 = x3, x0, x1, x2
        for j in range(width):
            x0[j] = x[t, low + j]
        for j in range(width):
            total = bias[low + j] + taps[0, j] * x0[j] + taps[1, j] * x1[j] + taps[2, j] * x2[j] + taps[3, j] * x3[j]
            out[j] = total * sigmoid(total)
        for j in range(width):
            y[t, low + j] = out[j]


@compiled()
def conv_silu_backward(
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array,
    dx: Array,
    dweight: Array,
    dbias: Array,
    start: int,
    stop: int,
    low: int,
    high: int,
    reverse: bool,
) -> None:
    """Gradients of `conv_silu_forward`. Writes dx (T, D) and this sequence's partial sums dweight, dbias.

    The first pass computes g, the gradient before the SiLU; the second computes dx_t = sum_k weight[k] g_{t+k}. g ends
    with three rows of zeros, so that no step is special.
    """
    width = high - low
    length = stop - start
    taps = block(weight, low, high)
    filters = np.zeros((CONV_WIDTH, width), np.float64)  # float64: sums of thousands of steps that may cancel
    offsets = np.zeros(width, np.float64)
    g = np.zeros((length + CONV_WIDTH - 1, width), np.float32)
    x0, x1 = np.zeros(width, np.float32), np.zeros(width, np.float32)  # x_t, x_{t-1}, x_{t-2}, x_{t-3}
    x2, x3 = np.zeros(width, np.float32), np.zeros(width, np.float32)
    for i in range(length):
        t = stop - 1 - i if reverse else start + i
        x0, x1, x2, x3 = x3, x0, x1, x2
        for j in range(width):
            x0[j] = x[t, low + j]
            g[i, j] = dy[t, low + j]
        for j in range(width):
            total = bias[low + j] + taps[0, j] * x0[j] + taps[1, j] * x1[j] + taps[2, j] * x2[j] + taps[3, j] * x3[j]
            p = sigmoid(total)
            g[i, j] *= p * (np.float32(1.0) + total * (np.float32(1.0) - p))
        for j in range(width):
            offsets[j] += g[i, j]
            filters[0, j] += g[i, j] * x0[j]
            filters[1, j] += g[i, j] * x1[j]
            filters[2, j] += g[i, j] * x2[j]
            filters[3, j] += g[i, j] * x3[j]
    for i in range(length):
        t = stop - 1 - i if reverse else start + i
        for j in range(width):
            dx[t, low + j] = (
                taps[0, j] * g[i, j] + taps[1, j] * g[i + 1, j] + taps[2, j] * g[i + 2, j] + taps[3, j] * g[i + 3, j]
            )
    unblock(dweight, low, high, filters)
    for j in range(width):
        dbias[low + j] = offsets[j]


@compiled()
def smooth_forward(z: Array, gate: Array, f: Array, start: int, stop: int, low: int, high: int, reverse: bool) -> None:
    """f_t = g_t z_t + (1 - g_t) f_{t-1} (`reverse`: f_{t+1}), f = 0 outside. z, f (T, D); gate (T,)."""
    width = high - low
    state = np.zeros(width, np.float32)
    for i in range(stop - start):
        t = stop - 1 - i if reverse else start + i
        g = gate[t]
        for j in range(width):
            state[j] += g * (z[t, low + j] - state[j])
            f[t, low + j] = state[j]


@compiled()
def smooth_backward(
    df: Array,
    z: Array,
    gate: Array,
    f: Array,
    dz: Array,
    dgate: Array,
    start: int,
    stop: int,
    low: int,
    high: int,
    reverse: bool,
) -> None:
    """Gradients of `smooth_forward`. Writes dz (T, D) and dgate (T,), the partial sum of the task's channels."""
    width = high - low
    s = np.zeros(width, np.float32)
    previous = np.zeros(width, np.float32)
    for i in range(stop - start - 1, -1, -1):
        t = stop - 1 - i if reverse else start + i
        g = gate[t]
        if i > 0:
            earlier = t + 1 if reverse else t - 1
            for j in range(width):
                previous[j] = f[earlier, low + j]
        else:
            for j in range(width):
                previous[j] = np.float32(0.0)
        total = np.float32(0.0)
        for j in range(width):
            grad = df[t, low + j] + s[j]
            dz[t, low + j] = g * grad
            total += grad * (z[t, low + j] - previous[j])
            s[j] = (np.float32(1.0) - g) * grad
        dgate[t] = total

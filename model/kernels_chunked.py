"""The scan and the smoothing in plain torch, for any device: all blocks of time at once, then what blocks hand on.

Both are a linear recurrence h_t = m_t h_{t-1} + x_t with factors 0 <= m_t <= 1; m_t = 0 where a sequence begins. Time
is cut into blocks of BLOCK positions. All blocks step side by side from zero; the states at their ends are a
recurrence over blocks, solved in the same way; then all blocks step again from the states that enter them. So T
positions take about 2 BLOCK log(T) / log(BLOCK) steps one after the other. Nothing is divided by a factor, so no
factor is too small. The scan is computed for a few channels at a time, and again in the backward pass: beside inputs
and results it needs only the states of those channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

BLOCK = 32
# States computed at once: 16 MiB on a CPU; elsewhere 512 MiB, which keep the device busy.
_STATES_CPU, _STATES = 1 << 22, 1 << 27


def solve(factors: Tensor, x: Tensor, reverse: bool) -> None:
    """Replace x by h with h_t = factors_t h_{t-1} + x_t (`reverse`: h_{t+1}), zero outside.

    Args:
        factors: (T, ...), as x or broadcast to x. x: (T, ...), written.
    """
    total = len(x)
    whole = total // BLOCK * BLOCK
    if total > 2 * BLOCK:
        ends = slice(total - whole, total) if reverse else slice(0, whole)  # the rest is read last
        blocks = [tensor[ends].unflatten(0, (-1, BLOCK)) for tensor in (factors, x)]
        steps = list(zip(*(tensor.unbind(1) for tensor in blocks), strict=True))
        steps = steps[::-1] if reverse else steps
        through, end = steps[0][0].clone(), steps[0][1].clone()
        for factor, entering in steps[1:]:
            torch.addcmul(entering, factor, end, out=end)
            through *= factor
        solve(through, end, reverse)
        first = steps[0]
        if reverse:
            first[1][:-1].addcmul_(first[0][:-1], end[1:])
        else:
            first[1][1:].addcmul_(first[0][1:], end[:-1])
        for (_, before), (factor, here) in zip(steps, steps[1:], strict=False):
            here.addcmul_(factor, before)
    else:
        whole = 1
    rest = range(total - whole - 1, -1, -1) if reverse else range(whole, total)
    for t in rest:
        x[t].addcmul_(factors[t], x[t + 1 if reverse else t - 1])


def starts_of(cu_seqlens: Tensor, total: int, reverse: bool) -> Tensor:
    """(S,) int64: the packed positions where sequences begin, as the direction reads; empty sequences have none."""
    borders = cu_seqlens.long()
    filled = borders[1:] > borders[:-1]
    return (borders[1:] - 1)[filled] if reverse else borders[:-1][filled]


class _SelectiveScan(Function):
    """Arguments as `kernels_reference.selective_scan` without the skip D, all of one dtype."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor, reverse: bool
    ) -> Tensor:
        ctx.save_for_backward(u, delta, A, B, C, starts)
        ctx.reverse = reverse
        y = torch.empty_like(u)
        for part in _channels(u, A):
            _, states = _states(u[:, part], delta[:, part], A[part], B, starts, reverse)
            y[:, part] = (states[1:-1] @ C.unsqueeze(-1)).squeeze(-1)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        u, delta, A, B, C, starts = ctx.saved_tensors
        reverse, total = ctx.reverse, len(u)
        du, ddelta, dA, dB, dC = (torch.zeros_like(x) for x in (u, delta, A, B, C))
        before, after = (slice(2, None), slice(0, total)) if reverse else (slice(0, total), slice(2, None))
        for part in _channels(u, A):
            inputs, steps, rates, grad = u[:, part], delta[:, part], A[part], dy[:, part]
            factors, states = _states(inputs, steps, rates, B, starts, reverse)
            dC += (grad.unsqueeze(1) @ states[1:-1]).squeeze(1)
            slopes = grad.unsqueeze(-1) * C.unsqueeze(1)  # then the gradients of the states, (T, G, N)
            solve(factors[after], slopes, not reverse)
            driven = (slopes @ B.unsqueeze(-1)).squeeze(-1)  # (T, G)
            du[:, part] = steps * driven
            dB += ((steps * inputs).unsqueeze(1) @ slopes).squeeze(1)
            slopes.mul_(factors[1:-1]).mul_(states[before])  # now the gradients of delta A
            ddelta[:, part] = inputs * driven + torch.einsum("tgn,gn->tg", slopes, rates)
            dA[part] = torch.einsum("tgn,tg->gn", slopes, steps)
        return du, ddelta, dA, dB, dC, None, None


def _channels(u: Tensor, A: Tensor) -> list[slice]:
    most = _STATES_CPU if u.device.type == "cpu" else _STATES
    count = max(1, most // max(1, len(u) * A.shape[1]))
    return [slice(first, first + count) for first in range(0, u.shape[1], count)]


def _states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, starts: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Factors and states of the scan for G channels, each (T+2, G, N) with a row of zeros at both ends."""
    shape = len(u) + 2, *A.shape
    factors, states = u.new_empty(shape), u.new_empty(shape)
    for tensor in (factors, states):
        tensor[0], tensor[-1] = 0, 0
    torch.mul(delta.unsqueeze(-1), A, out=factors[1:-1]).exp_()
    factors[1 + starts] = 0
    torch.mul((delta * u).unsqueeze(-1), B.unsqueeze(1), out=states[1:-1])
    solve(factors[1:-1], states[1:-1], reverse)
    return factors, states


class _Smooth(Function):
    """Arguments as `kernels_reference.smooth`, z and gate of one dtype."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, gate: Tensor, starts: Tensor, reverse: bool) -> Tensor:
        factors = z.new_zeros(len(z) + 2, 1)
        factors[1:-1, 0] = 1 - gate
        factors[1 + starts] = 0
        f = gate.unsqueeze(-1) * z
        solve(factors[1:-1], f, reverse)
        ctx.save_for_backward(z, gate, factors, f, starts)
        ctx.reverse = reverse
        return f

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, df: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        z, gate, factors, f, starts = ctx.saved_tensors
        slopes = df.clone(memory_format=torch.contiguous_format)
        solve(factors[:-2] if ctx.reverse else factors[2:], slopes, not ctx.reverse)
        before = f.roll(-1 if ctx.reverse else 1, 0)
        before[starts] = 0
        return gate.unsqueeze(-1) * slopes, (slopes * (z - before)).sum(-1), None, None


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, reverse: bool
) -> Tensor:
    """`kernels_reference.selective_scan`; states in at least float32, y in the dtype of u."""
    exact = torch.promote_types(u.dtype, torch.float32)
    if not len(u):
        return u * delta
    starts = starts_of(cu_seqlens, len(u), reverse)
    u_exact, *others = (x.to(exact) for x in (u, delta, A, B, C))
    y: Tensor = _SelectiveScan.apply(u_exact, *others, starts, reverse)
    return (y + D.to(exact) * u_exact).to(u.dtype)


def smooth(z: Tensor, gate: Tensor, cu_seqlens: Tensor, reverse: bool) -> Tensor:
    """`kernels_reference.smooth`; computed in at least float32, f in the dtype of z."""
    exact = torch.promote_types(z.dtype, torch.float32)
    if not len(z):
        return z * gate.unsqueeze(-1)
    f: Tensor = _Smooth.apply(z.to(exact), gate.to(exact), starts_of(cu_seqlens, len(z), reverse), reverse)
    return f.to(z.dtype)

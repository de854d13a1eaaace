"""The parameters that a BiMamba layer has for each channel, laid out for the kernels of both directions.

The kernels read rows of channels in float32. One layer has ten such parameters, and a launch for each would take the
host longer than the GPU: so all are laid out together, and their gradients are brought back together.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .kernels_triton import LOG2_E, triton

Pair = tuple[Tensor, Tensor]  # of the two directions


def conv_rows(weight: Tensor, bias: Tensor) -> Tensor:
    """weight (2, Dm, W), bias (2, Dm) -> (2 W + 2, Dm) float32: the taps of each direction, then the biases."""
    return torch.cat((weight.transpose(1, 2).flatten(0, 1), bias)).float()


def scan_rows(A: Tensor, skip: Tensor, dt_bias: Tensor) -> Tensor:
    """A (2, Dm, N), negative, and skip, dt_bias (2, Dm) -> (2 N + 4, Dm) float32, with A log2(e) first.

    N rises to a power of two; a state that is added stays zero, since nothing drives it.
    """
    A = F.pad(A, (0, _spare(A)))
    return torch.cat(((A.float() * LOG2_E.value).transpose(1, 2).flatten(0, 1), skip.float(), dt_bias.float()))


def parameter_rows(conv_weight: Pair, conv_bias: Pair, A_log: Pair, skip: Pair, dt_bias: Pair) -> tuple[Tensor, Tensor]:
    """`conv_rows` and `scan_rows` of a layer, with A = -exp(A_log).

    Args:
        conv_weight: (Dm, W) of each direction. A_log: (Dm, N). conv_bias, skip, dt_bias: (Dm,). Of one dtype.
    """
    spare = _spare(A_log[0])
    rates = tuple(F.pad(x, (0, spare)) for x in A_log) if spare else A_log
    found: tuple[Tensor, Tensor] = _ParameterRows.apply(*conv_weight, *conv_bias, *rates, *skip, *dt_bias)
    return found


def _spare(A: Tensor) -> int:
    return int(triton.next_power_of_2(A.shape[-1])) - A.shape[-1]


class _ParameterRows(Function):
    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        columns = torch.cat([x if x.dim() == 2 else x.unsqueeze(1) for x in parameters], dim=1)  # (Dm, .)
        rows = torch.empty(columns.shape[::-1], dtype=torch.float32, device=columns.device).copy_(columns.t())
        taps, states = parameters[0].shape[1], parameters[4].shape[1]
        conv, scan = rows.split((2 * taps + 2, 2 * states + 4))
        rate = torch.exp(scan[: 2 * states], out=scan[: 2 * states]).mul_(-LOG2_E.value)
        ctx.save_for_backward(rate)
        ctx.taps, ctx.states, ctx.dtype = taps, states, columns.dtype
        return conv, scan

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        (rate,) = ctx.saved_tensors
        conv, scan = grads
        weights = _columns(conv[: 2 * ctx.taps], ctx.dtype)
        shape = 2, rate.shape[1], ctx.states
        rates = torch.empty(shape, dtype=ctx.dtype, device=rate.device)
        torch.mul(_by_way(scan[: 2 * ctx.states]), _by_way(rate), out=rates)  # d exp(A_log) = exp(A_log) dA_log
        bias, others = conv[2 * ctx.taps :].to(ctx.dtype), scan[2 * ctx.states :].to(ctx.dtype)
        return (*weights.unbind(), *bias.unbind(), *rates.unbind(), *others.unbind())


def _by_way(rows: Tensor) -> Tensor:
    """(2 K, Dm) -> (2, Dm, K), a view."""
    return rows.unflatten(0, (2, -1)).transpose(1, 2)


def _columns(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """(2 K, Dm) -> (2, Dm, K), contiguous."""
    of = _by_way(rows)
    return torch.empty(of.shape, dtype=dtype, device=rows.device).copy_(of)

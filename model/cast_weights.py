"""Weights of matrix products in autocast's precision, those of a layer cast together.

Autocast casts every weight, and in the backward pass every gradient, in a launch of its own. Here a layer takes one
launch for all its weights and one for all their gradients. The copies and the gradients are autocast's, bit for bit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from .linear import is_plain, through


def cast_together(weights: list[Tensor]) -> list[Tensor]:
    """The weights in autocast's precision; they themselves where autocast is off, or if they are not all float32."""
    device = weights[0].device.type
    if not torch.is_autocast_enabled(device) or any(weight.dtype != torch.float32 for weight in weights):
        return weights
    return list(_Cast.apply(torch.get_autocast_dtype(device), *weights))


def products(device: str, *layers: nn.Module) -> Sequence[Callable[[Tensor], Tensor]]:
    """The layers as functions; under autocast on a device type, plain layers have their weights cast together."""
    if not torch.is_autocast_enabled(device) or not all(map(is_plain, layers)):
        return [partial(through, layer) for layer in layers]
    return [partial(F.linear, weight=weight) for weight in cast_together(weights_of(layers))]


def weights_of(layers: Sequence[nn.Module]) -> list[Tensor]:
    """The weight of each layer."""
    return [layer.weight for layer in layers]  # type: ignore[misc]


class _Cast(Function):
    """Copies of weights in another precision. A weight that needs no gradient gets none."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        copies = _copies(weights, dtype)
        trained = ctx.needs_input_grad[1:]
        ctx.mark_non_differentiable(*(copy for copy, needed in zip(copies, trained, strict=True) if not needed))
        return copies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        wanted = iter(_copies([grad for grad, yes in zip(grads, needed, strict=True) if yes], ctx.dtype))
        return None, *(next(wanted) if yes else None for yes in needed)


def _copies(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
    torch._foreach_copy_(copies, list(tensors))
    return copies

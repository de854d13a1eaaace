"""Products of rows with a weight, as `F.linear` without a bias; in float32 on a CPU with AVX-512 they are oneDNN's.

For float32 torch calls MKL, which uses AVX2 at most on processors that are not Intel's. oneDNN, a part of torch too,
uses AVX-512 on all: there a product of many rows takes about half the time. To go back, use
`torch.backends.mkldnn.flags(enabled=False)`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

_FEWEST_ROWS = 64  # below, the call itself costs more than oneDNN saves


class _OneDNN(Function):
    """x (T, K), weight (N, K) -> (T, N). The backward pass is made of the same products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        dx = _OneDNN.apply(grad, weight.t()) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx, None
        # oneDNN copies the first factor here, so it is the narrower one
        if grad.shape[1] <= x.shape[1]:
            return dx, _OneDNN.apply(grad.t(), x.t())
        return dx, _OneDNN.apply(x.t(), grad.t()).t()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """oneDNN's x @ weight.t(). x (T, K), weight (N, K) -> (T, N)."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return found


def is_ordinary(weight: Tensor) -> bool:
    """Whether a weight is a tensor of torch's own class, and not a quantised one, whatever dtype that shows."""
    return type(weight) in (Tensor, nn.Parameter)


def takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is the faster one for these factors, and runs them in float32."""
    return (
        is_ordinary(weight)
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.dim() == 2
        and len(x) >= _FEWEST_ROWS
        and x.shape[1] > 0
        and bool(torch.backends.mkldnn.enabled)
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`F.linear` without a bias. x (..., K), weight (N, K) -> (..., N), dtype as `F.linear`'s."""
    if takes_onednn(x, weight):
        made: Tensor = _OneDNN.apply(x, weight)
        return made
    return F.linear(x, weight)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a product with its weight and nothing more.

    LoRA and quantisation put other layers or weights in its place. ZeRO-3 gathers the weight in hooks, unless it
    gathers the whole layer around it.
    """
    hooks = layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks
    return (
        type(layer) is nn.Linear
        and not any(hooks)  # first: under ZeRO-3 the very look at a weight gathers it
        and "forward" not in vars(layer)
        and layer.bias is None
        and is_ordinary(layer.weight)
    )


def through(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's output, by `linear` where the layer is plain."""
    made: Tensor = linear(x, layer.weight) if is_plain(layer) else layer(x)  # type: ignore[arg-type]
    return made

"""What tests of kernels share: ragged borders, a result with its gradients, and a comparison of two of these."""

from collections.abc import Callable

import torch
from torch import Tensor


def borders(lengths: list[int]) -> Tensor:
    """(B+1,) int32: borders of packed sequences."""
    return torch.tensor([0, *lengths]).cumsum(0).int()


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor], *rest: object) -> list[Tensor]:
    """The result and the gradient of every input for a fixed, uneven output gradient."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves, *rest)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> None:
    """Each tensor to `tolerance` of its largest value, or of 1."""
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        scale = max(1.0, float(b.abs().max()))
        assert float((a.double() - b.double()).abs().max()) <= tolerance * scale, f"tensor {index}"

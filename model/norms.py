"""The norms at the start of a branch: they add the branch before to the residual stream, and normalise the sum."""

import torch
from torch import Tensor, nn

from .kernels import fused_kernels, scan_backend


class StreamLayerNorm(nn.LayerNorm):
    """LayerNorm without bias of a residual stream."""

    def __init__(self, width: int, eps: float, backend: str) -> None:
        super().__init__(width, eps=eps, bias=False)
        self.backend = backend

    def forward(self, x: Tensor, branch: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """x (T, D) and a branch (T, D), if any -> their sum and its norm, both (T, D).

        Go on with the sum that is returned, not with x: the backward pass then adds both gradients of x in one kernel.
        """
        if scan_backend(self.backend, x.device.type, x.dtype) == "triton":
            return fused(x, branch, self.weight, self.eps, centred=True)
        total = x if branch is None else x + branch
        return total, super().forward(total)


class StreamRMSNorm(nn.RMSNorm):
    """RMSNorm of a residual stream."""

    def __init__(self, width: int, eps: float, backend: str) -> None:
        super().__init__(width, eps=eps)
        self.backend = backend

    def forward(self, x: Tensor, branch: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As `StreamLayerNorm.forward`."""
        if scan_backend(self.backend, x.device.type, x.dtype) == "triton":
            return fused(x, branch, self.weight, self.eps or torch.finfo(x.dtype).eps, centred=False)
        total = x if branch is None else x + branch
        return total, super().forward(total)


def fused(x: Tensor, branch: Tensor | None, weight: Tensor, eps: float, *, centred: bool) -> tuple[Tensor, Tensor]:
    """`sum_and_norm`, with the norm in autocast's precision: the linear layer that reads the norm would cast it."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    total, normed = fused_kernels().sum_and_norm(x, branch, weight, eps, centred=centred, dtype=dtype)
    return total, normed

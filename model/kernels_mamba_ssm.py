"""The fused CUDA scan of mamba-ssm behind our packed, two-directional interface.

The released kernel takes (B, D, L) and reads forward only. One gather lays the sequences side by side and reverses
them where needed; positions beyond a sequence's end are computed but never read.
"""

import importlib

from torch import Tensor

from .kernels_reference import time_grid


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, reverse: bool
) -> Tensor:
    """`kernels_reference.selective_scan` on float32 CUDA tensors."""
    if not len(u):
        return u * delta
    fused = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    grid, step, sequence = time_grid(cu_seqlens, reverse)

    def lay_out(x: Tensor) -> Tensor:
        return x[grid].permute(1, 2, 0).contiguous()  # (S, B, channels) -> (B, channels, S)

    y: Tensor = fused(lay_out(u), lay_out(delta), A.contiguous(), lay_out(B), lay_out(C), D)
    return y.permute(2, 0, 1)[step, sequence]

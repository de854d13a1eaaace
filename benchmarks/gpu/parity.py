"""Compares every kernel with the plain-torch reference on the GPU: results and all gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dnachunker.model import kernels_reference
from dnachunker.model.kernels import fused_kernels
from dnachunker.model.packing import Packing

from .inputs import packed, scan_inputs
from .machine import Machine

# Relative to the largest value of a tensor. The GPU's exp2 has an error of 2e-7, which accumulates in the states.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def against_reference(machine: Machine) -> dict[str, Any]:
    """Largest relative error over the result and all gradients, for each kernel and precision.

    Raises:
        AssertionError: an error above the tolerance; the message contains all errors so far.
    """
    lengths = [5, 1, 3] if machine.smoke else [777, 1, 33, 1500, 64]
    channels, states = (4, 2) if machine.smoke else (96, 16)
    packing = packed(lengths, machine.device)
    errors: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, ours, theirs, leaves in _cases(packing, channels, states, dtype):
            errors[f"{name} {str(dtype).removeprefix('torch.')}"] = error = _error(ours, theirs, leaves)
            if not error <= TOLERANCE[dtype]:
                raise AssertionError(f"parity: {errors}")
    return {name: float(f"{error:.2g}") for name, error in errors.items()}


def _cosine(query: Tensor, key: Tensor) -> Tensor:
    return F.cosine_similarity(query[1:], key[:-1], dim=-1)


Case = tuple[str, Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def _cases(packing: Packing, channels: int, states: int, dtype: torch.dtype) -> list[Case]:
    kernels, borders = fused_kernels(), packing.cu_seqlens
    inputs = scan_inputs(packing, channels, states, dtype)
    z, weight = inputs["z"], torch.randn(2, channels, 4, device=borders.device)
    gate = torch.rand(packing.total, device=borders.device)

    def gates(g: Tensor) -> Tensor:
        g = torch.where(packing.first, 1.0, g)
        return torch.stack((g, packing.shift(g, 1.0, back=True)))

    def scan(u: Tensor, raw: Tensor, rows: Tensor, z: Tensor, A: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
        B, C = rows.split(states, dim=-1)
        result: Tensor = kernels.gated_scan(u, raw, B, C, z, A, skip, bias, packing.steps)
        return result

    def scan_plain(u: Tensor, raw: Tensor, rows: Tensor, z: Tensor, A: Tensor, skip: Tensor, bias: Tensor) -> Tensor:
        B, C = rows.split(states, dim=-1)
        dt = F.softplus(raw + bias.unsqueeze(1))
        both = [
            kernels_reference.selective_scan(u[w], dt[w], A[w], B[w], C[w], skip[w], borders, w == 1) for w in (0, 1)
        ]
        return (both[0] + both[1]) * F.silu(z)

    return [
        ("scan", scan, scan_plain, list(inputs.values())),
        (
            "convolution",
            lambda x, w, b: kernels.conv_silu_both_ways(x, w, b, packing.steps),
            lambda x, w, b: torch.stack([kernels_reference.conv_silu(x, w[i], b[i], borders, i == 1) for i in (0, 1)]),
            [z, weight, inputs["skip"]],
        ),
        (
            "smoothing",
            lambda x, g: kernels.smooth_both_ways(x, gates(g)),
            lambda x, g: sum(kernels_reference.smooth(x, gates(g)[i], borders, i == 1) for i in (0, 1)) / 2,
            [z, gate],
        ),
        (
            "router",  # always in float32
            lambda q, k: kernels.boundary_probability(q.float(), k.float(), packing.steps),
            lambda q, k: torch.where(packing.first, 1.0, F.pad((1 - _cosine(q, k)) / 2, (1, 0))),
            [z, inputs["u"][0]],
        ),
    ]


def _error(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: list[Tensor]) -> float:
    """Largest relative error of `ours`, over the result and all gradients.

    Args:
        ours: the kernel.
        theirs: the reference, which runs in float64 on the same numbers.
    """
    found = []
    for function, double in ((ours, False), (theirs, True)):
        leaves = [(x.detach().double() if double else x.detach().clone()).requires_grad_() for x in inputs]
        y = function(*leaves)
        y.backward(torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape).to(y.dtype))
        found.append([y.detach(), *(leaf.grad for leaf in leaves)])
    worst = 0.0
    for a, b in zip(*found, strict=True):
        worst = max(worst, float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1)))
    return worst

"""Time of every kernel at the size of a layer of the default model, and its bandwidth.

Bandwidth counts the fewest possible bytes: every input is read once, every output is written once.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dnachunker.model.attention import rotary_angles
from dnachunker.model.kernels import fused_kernels, mamba_ssm_works
from dnachunker.model.kernels_triton_parameters import conv_rows, scan_rows
from dnachunker.model.kernels_triton_scan import Tiling, gated_scan
from dnachunker.model.packing import Packing

from .inputs import packed, scan_inputs
from .machine import Machine

CHANNELS, STATES, WIDTH = 1280, 16, 640
TILINGS = (
    Tiling(),
    Tiling(span=64),
    Tiling(span=256),
    Tiling(keep=4),
    Tiling(keep=16),
    Tiling(width=32),
    Tiling(width=128, warps=2),
)


def _sizes(machine: Machine) -> tuple[Packing, int, int, int]:
    if machine.smoke:
        return packed([3, 4], machine.device), 4, 2, 4
    return packed([8192] * 8, machine.device), CHANNELS, STATES, WIDTH


def of_each(machine: Machine) -> dict[str, dict[str, float]]:
    """For each kernel, forward and backward: milliseconds, GB/s of the fewest bytes, and their share of a copy's."""
    packing, channels, states, width = _sizes(machine)
    total, kernels, half = packing.total, fused_kernels(), torch.bfloat16
    inputs = scan_inputs(packing, channels, states, half)
    weight = torch.randn(2, channels, 4, device=machine.device)
    rows = torch.randn(total, width, device=machine.device).to(half).requires_grad_()
    query, key = (torch.randn(width, width, device=machine.device).to(half).requires_grad_() for _ in range(2))
    scale = torch.ones(width, device=machine.device, dtype=half, requires_grad=True)
    heads = width // 64 or 1
    qkv = torch.randn(total, 3 * width, device=machine.device).to(half).requires_grad_()
    angles = rotary_angles(packing.offset, width // heads, 1e4)
    gate = torch.rand(2, total, device=machine.device, requires_grad=True)
    taps, exact = conv_rows(weight, inputs["skip"].detach()).requires_grad_(), _rows_of(inputs)
    packing.steps  # noqa: B018  (computed here, because a model computes it once a batch, not once a layer)

    def scan() -> Tensor:
        B, C = inputs["rows"].split(states, dim=-1)
        result: Tensor = kernels.gated_scan(inputs["u"], inputs["raw"], B, C, inputs["z"], exact, packing.steps)
        return result

    # bf16; of the scan, B and C are float32. Forward reads u and raw of both directions and z, and writes out. Backward
    # reads the same and the gradient of out, and writes the gradients of u, raw and z.
    wide, narrow = 2 * total * channels, 4 * total * 2 * states * 2
    cases: dict[str, tuple[Callable[[], Tensor], float, float]] = {
        "scan": (scan, 6 * wide + narrow, 11 * wide + 2 * narrow),
        "convolution": (
            lambda: kernels.conv_silu_both_ways(inputs["z"], taps, packing.steps),
            3 * wide,
            4 * wide,
        ),
        "smoothing": (
            lambda: kernels.smooth_both_ways(rows, gate),
            2 * 2 * total * width + 8 * total,
            3 * 2 * total * width + 16 * total,
        ),
        "router": (
            lambda: kernels.boundary_probability(rows, query, key, packing.steps, half=True),
            2 * total * width,
            2 * 2 * total * width,
        ),
        "norm": (
            lambda: kernels.sum_and_norm(rows, rows, scale, 1e-5, centred=True)[1],
            4 * 2 * total * width,
            3 * 2 * total * width,
        ),
        "rotary": (
            lambda: kernels.rotated(qkv * 1, *angles, heads)[0],
            (4 + 6) * 2 * total * width,  # with the copy that keeps qkv
            6 * 2 * total * width,
        ),
    }
    return {name: _measure(machine, *case) for name, case in cases.items()}


def _rows_of(inputs: dict[str, Tensor]) -> Tensor:
    """The scan's parameters as its kernels read them."""
    return scan_rows(inputs["A"], inputs["skip"], inputs["dt_bias"]).detach().requires_grad_()


def _measure(machine: Machine, run: Callable[[], Tensor], forward: float, backward: float) -> dict[str, float]:
    y = run()
    gradient = torch.randn_like(y)
    seconds = machine.seconds_of(run)
    whole = machine.seconds_of(lambda: run().backward(gradient))
    back = max(whole - seconds, 1e-9)
    return {
        "forward_ms": round(1e3 * seconds, 3),
        "backward_ms": round(1e3 * back, 3),
        "forward_gb_s": round(forward / seconds / 1e9),
        "backward_gb_s": round(backward / back / 1e9),
        "forward_of_copy": round(forward / seconds / machine.copy_bytes, 3),
        "backward_of_copy": round(backward / back / machine.copy_bytes, 3),
    }


def tilings(machine: Machine) -> dict[str, dict[str, float]]:
    """The scan with other tilings than the default one, as long as time is left (each tiling is compiled first)."""
    packing, channels, states, _ = _sizes(machine)
    inputs = scan_inputs(packing, channels, states, torch.bfloat16)
    exact, found = _rows_of(inputs), {}
    for tiling in TILINGS[: 0 if machine.smoke else None]:
        if machine.seconds_left() < 60:
            break

        def scan(tiling: Tiling = tiling) -> Tensor:
            B, C = inputs["rows"].split(states, dim=-1)
            return gated_scan(inputs["u"], inputs["raw"], B, C, inputs["z"], exact, packing.steps, tiling)

        measured = _measure(machine, scan, 1.0, 1.0)
        found[str(tuple(tiling))] = {name: measured[name] for name in ("forward_ms", "backward_ms")}
    return found


def beside_mamba_ssm(machine: Machine) -> dict[str, float] | str:
    """Both directions of one layer by mamba-ssm's scan, which needs flips and the gate outside the kernel.

    The section `kernels` measures our scan at the same size.
    """
    if not mamba_ssm_works():
        return "mamba-ssm is not importable here"
    packing, channels, states, _ = _sizes(machine)
    count = len(packing.lengths)
    fused = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    inputs = scan_inputs(packing, channels, states, torch.bfloat16)
    both = inputs["rows"].detach().bfloat16().requires_grad_()  # it takes B and C in the dtype of u

    def theirs() -> Tensor:
        total: Any = 0
        for way in (0, 1):
            rows = [inputs["u"][way], inputs["raw"][way], *both[way].split(states, dim=-1)]
            u, dt, B, C = (x.unflatten(0, (count, -1)).transpose(1, 2).contiguous() for x in rows)
            if way:
                u, dt, B, C = (x.flip(-1) for x in (u, dt, B, C))
            A, skip, bias = (inputs[name][way] for name in ("A", "skip", "dt_bias"))
            y = fused(u, dt, A, B, C, skip, None, bias, True)
            total = total + (y.flip(-1) if way else y)
        result: Tensor = total.transpose(1, 2).flatten(0, 1) * F.silu(inputs["z"])
        return result

    found = _measure(machine, theirs, 1.0, 1.0)
    return {name: found[name] for name in ("forward_ms", "backward_ms")}

"""Compares every kernel with the plain-torch reference on the GPU: results and all gradients."""

import math
from typing import Any

import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.engine.kernel_cases import relative_error, scan_cases

from .inputs import SMALLEST
from .machine import Machine

# Relative to the largest value of a tensor. The GPU's exp2 has an error of 2e-7, which accumulates in the states.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def against_reference(machine: Machine) -> dict[str, Any]:
    """Largest relative error over the result and all gradients, for each kernel and precision.

    Raises:
        AssertionError: an error above the tolerance; the message contains all errors so far.
    """
    lengths = (5, 1, 3) if machine.smoke else (777, 1, 33, 1500, 64)
    network = DNAChunkerConfig(**(SMALLEST if machine.smoke else {}))
    errors: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, compare in scan_cases("triton", network, dtype, machine.device, torch.float32, lengths):
            found = [relative_error(ours, theirs) for ours, theirs in compare()]
            error = math.nan if any(map(math.isnan, found)) else max(found)
            errors[f"{name} {str(dtype).removeprefix('torch.')}"] = error
            if not error <= TOLERANCE[dtype]:
                raise AssertionError(f"parity: {errors}")
    return {name: float(f"{error:.2g}") for name, error in errors.items()}

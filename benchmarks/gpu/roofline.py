"""The time that counted bytes, operations and instructions suggest on a named GPU."""

import math
from dataclasses import asdict, dataclass

from dnachunker.pretrain.planning.hardware import Hardware

# Shares of the data sheets' rates that well-written kernels reach; assumptions.
OF_BANDWIDTH, OF_MATRIX_RATE, OF_FMA_RATE, OF_ISSUE_RATE = 0.85, 0.60, 0.75, 0.75
FLASH_ATTENTION_2 = 0.5, 250e12  # half of the matrix rate, but no more than this on GPUs newer than the kernel
# Forward and backward on an H100, as its authors measured for heads of 64 channels, not causal (arXiv 2407.08608,
# figures 5 and 6): 460 and 422 TFLOP/s for 2,048 positions, 476 and 453 for 4,096. Windows of 8,192 bases have about
# 2,540 chunks; the rates are read off the lines between, over the logarithm of the length. An H200 has the same matrix
# rate.
_FROM_2048_TO_4096 = math.log2(2_540 / 2_048)
FLASH_ATTENTION_3 = (460 + 16 * _FROM_2048_TO_4096) * 1e12, (422 + 31 * _FROM_2048_TO_4096) * 1e12
HOPPER = ("h100", "h200")
LAUNCH = 5e-6  # seconds in which the host starts an operation


@dataclass
class Cost:
    """What one place costs in a step.

    Attributes:
        launches: operations that compute something, and launches of our kernels.
        bytes: read and written.
        half, full: floating-point operations of matrix products in bf16 and in float32.
        attention, attention_backward: floating-point operations of attention, with the scores that its backward pass
            computes again.
        instructions: of warps, where a kernel is bound by them.
    """

    launches: int = 0
    bytes: float = 0.0
    half: float = 0.0
    full: float = 0.0
    attention: float = 0.0
    attention_backward: float = 0.0
    instructions: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def seconds(self, gpu: Hardware, *, flash_attention_3: bool = False) -> float:
        """On a GPU that does one thing at a time: by whatever takes longest."""
        share, most = FLASH_ATTENTION_2
        forward, backward = FLASH_ATTENTION_3 if flash_attention_3 else [min(share * gpu.bf16, most)] * 2
        return max(
            self.bytes / (OF_BANDWIDTH * gpu.bandwidth),
            self.half / (OF_MATRIX_RATE * gpu.bf16)
            + self.full / (OF_FMA_RATE * gpu.fp32)
            + self.attention / forward
            + self.attention_backward / backward,
            self.instructions / (OF_ISSUE_RATE * gpu.instructions),
        )


@dataclass(frozen=True)
class StepCost:
    """The cost of a step.

    Attributes:
        places: by name.
        operations: bytes and launches by (place, operation), for whoever looks for what to fuse.
        kept, peak: bytes of activations and gradients: after the forward pass, and at most. Weights are apart.
        model_flops: as `model/cost.py` counts them.
    """

    places: dict[str, Cost]
    operations: dict[tuple[str, str], Cost]
    kept: int
    peak: int
    model_flops: float

    @property
    def total(self) -> Cost:
        return sum(self.places.values(), Cost())

    def seconds(self, gpu: Hardware, place: str | None = None, *, flash_attention_3: bool = False) -> float:
        """Of one place, or of the whole step; operations follow each other, and the host starts each in LAUNCH."""
        of = [
            cost.seconds(gpu, flash_attention_3=flash_attention_3)
            for (where, _), cost in self.operations.items()
            if place in (None, where)
        ]
        return sum(of) if place else max(sum(of), LAUNCH * self.total.launches)

    def utilisation(self, gpu: Hardware) -> float:
        """Model FLOPs as a share of the matrix rate."""
        return self.model_flops / self.seconds(gpu) / gpu.bf16

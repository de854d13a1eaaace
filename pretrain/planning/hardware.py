"""GPUs by name, with the rates of their makers' data sheets: dense, without sparsity."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """One GPU and its share of the links.

    Attributes:
        bf16, fp32: FLOP per second of matrix products.
        bandwidth: bytes per second of its memory.
        instructions: that warps issue per second, four a clock and multiprocessor.
        memory: bytes.
        within_node: bytes per second and direction to the GPUs of the same machine.
        counted: share of `bf16` that a step of the 172M model reaches, by the count of `benchmarks/step_cost.py`.
        between_nodes: bytes per second and direction over the network, for each GPU while all GPUs of a machine send.
    """

    name: str
    bf16: float
    fp32: float
    bandwidth: float
    instructions: float
    memory: float
    within_node: float
    between_nodes: float
    counted: float

    def rate(self, precision: str) -> float:
        """FLOP per second of matrix products at a precision of `engine.precision`."""
        return self.fp32 if precision == "fp32" else self.bf16

    def utilisation(self, precision: str) -> float:
        """Share of `rate` that a step reaches by its model FLOPs; float32 products are so slow that they are most."""
        return FP32_UTILISATION if precision == "fp32" else self.counted


FP32_UTILISATION = 0.55  # counted like `Hardware.counted`

HARDWARE = {
    item.name: item
    for item in (
        Hardware("a100", 312e12, 19.5e12, 2.04e12, 0.61e12, 80e9, 300e9, 25e9, 0.35),
        Hardware("h100", 989e12, 67e12, 3.35e12, 1.05e12, 80e9, 450e9, 50e9, 0.22),
        Hardware("h200", 989e12, 67e12, 4.8e12, 1.05e12, 141e9, 450e9, 50e9, 0.24),
        Hardware("b200", 2250e12, 75e12, 8.0e12, 1.16e12, 180e9, 900e9, 50e9, 0.14),
        Hardware("l40s", 362e12, 91.6e12, 0.86e12, 1.43e12, 48e9, 32e9, 12.5e9, 0.27),
        Hardware("4090", 165e12, 82.6e12, 1.01e12, 1.29e12, 24e9, 32e9, 12.5e9, 0.39),
    )
}

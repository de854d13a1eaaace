"""The GPU: its description, its highest measured speeds, how to time a function on it, and how much time is left."""

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

PACKAGES = ("torch", "triton", "transformers", "numba", "flash_attn", "mamba_ssm")


@dataclass(frozen=True)
class Machine:
    """What the sections measure on.

    Attributes:
        device: `cuda`, or `cpu` for a smoke run.
        smoke: run with the smallest sizes, as a test; the figures have no meaning.
        deadline: when the benchmark should end, by `time.monotonic`.
        corpus: corpus folder for the section `loader`, if any.
        copy_bytes: bytes a second, read and written, of a copy within the GPU's memory.
        matrix_flops: operations a second of a bf16 matrix product of random numbers.
    """

    device: torch.device
    smoke: bool
    deadline: float
    corpus: str | None
    copy_bytes: float
    matrix_flops: float

    @classmethod
    def at_hand(cls, *, smoke: bool, minutes: float, corpus: str | None) -> "Machine":
        device = torch.device("cpu" if smoke else "cuda")
        deadline = time.monotonic() + 60 * minutes
        source = torch.randn(2**10 if smoke else 2**30, device=device)  # 4 GiB: many times any cache
        target = torch.empty_like(source)
        seconds = seconds_of(lambda: target.copy_(source), device)
        copy_bytes = 2 * source.numel() * source.element_size() / seconds
        size = 64 if smoke else 8192
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        return cls(device, smoke, deadline, corpus, copy_bytes, 2 * size**3 / seconds_of(lambda: a @ b, device))

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def seconds_of(self, function: Callable[[], Any], repeats: int = 10) -> float:
        return seconds_of(function, self.device, 1 if self.smoke else repeats)


def seconds_of(function: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Median seconds of a call, measured by CUDA events, after three calls that warm up (the first one compiles)."""
    if device.type == "cpu":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        function()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) / 1e3)
    return statistics.median(times)


def describe(machine: Machine) -> dict[str, Any]:
    """The GPU, versions, and the speeds of a copy and of a matrix product, with which everything else is compared."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "-"
    gpu = "none (smoke run)" if machine.smoke else torch.cuda.get_device_name()
    return {
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "versions": versions,
        "copy_gb_s": round(machine.copy_bytes / 1e9),
        "bf16_tflop_s": round(machine.matrix_flops / 1e12),
    }

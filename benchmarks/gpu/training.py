"""Training steps of the default model on one GPU: speed, memory, utilisation, waits, and where the time goes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dnachunker.model.cost import flops_per_base

from .inputs import CAPACITIES, batch, network
from .machine import Machine

BASES = 131_072  # bases of a step
LENGTHS = (8_192, 32_768, 131_072)
LONGEST = 1_048_576
LOADER_STEPS = 20

# Parts of kernel names in a profile, by component; the first component with a match counts.
COMPONENTS = {
    "scan": ("reach", "retreat", "emit", "carry"),
    "convolution": ("conv_forward", "conv_backward"),
    "smoothing": ("smooth_",),
    "attention": ("flash", "fmha", "attention"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "splitk", "wgmma"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "norms": ("norm",),
    "copies and casts": ("memcpy", "memset", "copy", "cat", "fill"),
    "indexing and counting": (
        "index",
        "gather",
        "scatter",
        "scan",
        "sort",
        "nonzero",
        "segment",
        "repeat",
        "cut_",
        "boundary",
    ),
    "elementwise": ("elementwise", "vectorized", "unrolled", "reduce"),
}


def _step(
    machine: Machine, count: int, length: int, *, checkpointing: bool = False, **changes: Any
) -> Callable[[], Any]:
    """A function that takes one step in bf16: forward, backward, clipping, AdamW. Routers and states use float32."""
    model = network(machine.smoke, machine.device, torch.bfloat16, **changes)
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=not machine.smoke)
    data = batch(count, length, machine.device)

    def step() -> dict[str, torch.Tensor]:
        output = model(**data)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": output.loss.detach(), "chunks": torch.stack([c.sum() for c in output.chunk_counts])}

    step.config = model.config  # type: ignore[attr-defined]
    return step


def _measure(machine: Machine, count: int, length: int, repeats: int = 5, **changes: Any) -> dict[str, Any]:
    if not machine.smoke:
        torch.cuda.reset_peak_memory_stats()
    step = _step(machine, count, length, **changes)
    found = step()
    seconds = machine.seconds_of(step, repeats)
    bases = count * length
    densities = [int(chunks) / bases for chunks in found["chunks"]]
    flops = flops_per_base(step.config, length, densities).total * bases  # type: ignore[attr-defined]
    return {
        "windows": count,
        "length": length,
        "step_ms": round(1e3 * seconds, 1),
        "bases_s": round(bases / seconds),
        "peak_gib": 0.0 if machine.smoke else round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "chunks_per_base": [round(density, 3) for density in densities],
        "flops_of_matrix_rate": round(flops / seconds / machine.matrix_flops, 3),
        "loss": round(float(found["loss"]), 4),
    }


def steps(machine: Machine) -> list[dict[str, Any]]:
    """Steps of BASES bases at each window length; at the first length also with capacities, or a compiled trunk."""
    if machine.smoke:
        return [_measure(machine, 2, 4, chunk_capacity=(0.9, 0.9), label_capacity=0.9)]
    rows = [_measure(machine, BASES // length, length) for length in LENGTHS]
    for changes in (CAPACITIES, {"compile_trunk": "auto"}):
        rows.append(_measure(machine, BASES // LENGTHS[0], LENGTHS[0], **changes) | {"with": changes})
    return rows


def one_long_sequence(machine: Machine) -> dict[str, Any]:
    """One sequence of 1,048,576 bases, with activation checkpointing."""
    return _measure(machine, 1, 8 if machine.smoke else LONGEST, repeats=2, checkpointing=True)


def never_waits(machine: Machine) -> str:
    """Check, with CUDA's sync debug mode, that the host never waits for the device in forward and backward pass.

    Raises:
        RuntimeError: a call waits; the message names it.
    """
    capacities = {"chunk_capacity": (0.9, 0.9), "label_capacity": 0.9} if machine.smoke else CAPACITIES
    model = network(machine.smoke, machine.device, torch.bfloat16, **capacities)
    data = batch(2, 4 if machine.smoke else 8192, machine.device)
    model(**data).loss.backward()  # compiles
    if machine.smoke:
        return "not watched: no CUDA device"
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(**data).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no call waited"


def beside_reference(machine: Machine) -> dict[str, Any]:
    """Losses of ten steps of a small model in bf16, by Triton and by plain torch, with the same weights and batches.

    Raises:
        AssertionError: the losses differ by more than the precision of bf16 explains.
    """
    small = {"width": 128, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 4, "num_heads": 4}
    losses: dict[str, list[float]] = {}
    for backend in ("triton", "reference"):
        sizes: dict[str, Any] = {} if machine.smoke else small
        model = network(machine.smoke, machine.device, torch.float32, **{**sizes, "scan_backend": backend})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses[backend] = []
        for step in range(1 if machine.smoke else 10):
            data = batch(2, 4 if machine.smoke else 512, machine.device, seed=step)
            with torch.autocast(machine.device.type, torch.bfloat16, enabled=not machine.smoke):
                loss = model(**data).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[backend].append(round(float(loss.detach()), 5))
    worst = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    if not worst <= 0.02:
        raise AssertionError(f"losses differ by {worst}: {losses}")
    return {**losses, "largest_difference": round(worst, 6)}


def profile(machine: Machine) -> dict[str, float]:
    """Share of a step's time that the GPU spends on each component; `nothing` is the share in which it is idle."""
    if machine.smoke:
        return {}
    step = _step(machine, BASES // LENGTHS[0], LENGTHS[0])
    for _ in range(3):
        step()
    seconds = machine.seconds_of(step, 3)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as recorded:
        step()
        torch.cuda.synchronize()
    shares = dict.fromkeys([*COMPONENTS, "other"], 0.0)
    for event in recorded.key_averages():
        name = event.key.lower()
        component = next((c for c, words in COMPONENTS.items() if any(w in name for w in words)), "other")
        shares[component] += event.self_device_time_total / 1e6 / seconds
    shares["nothing"] = max(0.0, 1 - sum(shares.values()))
    return {name: round(share, 3) for name, share in sorted(shares.items(), key=lambda item: -item[1])}


def loader_wait(machine: Machine) -> dict[str, float] | str:
    """Share of a training step that `dnachunker pretrain` spends waiting for data."""
    if machine.corpus is None:
        return "not measured: no --corpus"
    with tempfile.TemporaryDirectory() as folder:
        settings = ["engine.precision=bf16", f"steps={LOADER_STEPS}", "log_every=1", "tracking.enabled=false"]
        settings += [f"evaluation.every={10**6}", "evaluation.windows=1", f"checkpoint.every={10**6}"]
        argv = [sys.executable, "-m", "dnachunker", "pretrain", "--config", "dnachunker-172m"]
        argv += ["--corpus", machine.corpus, "--run", f"{folder}/run", *settings]
        left = max(30.0, machine.seconds_left() + 60)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=left, cwd=Path(__file__).parents[2])
        if done.returncode:
            raise RuntimeError(f"dnachunker pretrain failed: {done.stderr[-400:]}")
        events = [json.loads(line) for line in (Path(folder) / "run/events.jsonl").read_text().splitlines()]
    logged = [event for event in events if event.get("event") == "step"][5:]
    waited = sum(event["data_wait"] for event in logged)
    return {"wait_share": round(waited / sum(event["seconds"] for event in logged), 4), "steps": len(logged)}

"""Speed of the model on a CPU: the selective scan, training of the preset tiny, one step of the 172M model.

python benchmarks/model.py [--threads 2] [--skip-172m]
"""

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
# `dnachunker pretrain` sets this for its ranks, too: OpenMP threads that spin take cores from the scan's own threads
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.kernels import selective_scan
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

TINY = {"width": 128, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 4, "num_heads": 4}


def median_seconds(function: Callable[[], None], repeats: int) -> tuple[float, float, float]:
    """Median and shortest time of `repeats` calls, after two calls that warm up (the first one compiles), and the
    median of this process's CPU time, which other work on the machine disturbs less.
    """
    times, cpu = [], []
    for _ in range(repeats + 2):
        start, cpu_start = time.perf_counter(), time.process_time()
        function()
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return statistics.median(times[2:]), min(times[2:]), statistics.median(cpu[2:])


def time_scan() -> tuple[float, float, float]:
    """`median_seconds` of a scan forward and backward: 8 sequences of 1,024 positions, 256 channels, 16 states."""
    generator = torch.Generator().manual_seed(0)
    total, channels, state = 8 * 1024, 256, 16

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    u, B, C, D = leaf(total, channels), leaf(total, state), leaf(total, state), leaf(channels)
    delta = (torch.rand(total, channels, generator=generator) * 0.1).requires_grad_()
    A = (-torch.arange(1.0, state + 1).repeat(channels, 1)).requires_grad_()
    borders = torch.arange(9, dtype=torch.int32) * 1024
    gradient = torch.randn(total, channels, generator=generator)

    def step() -> None:
        selective_scan(u, delta, A, B, C, D, borders, reverse=False).backward(gradient)

    return median_seconds(step, 15)


def training_step(config: DNAChunkerConfig, batch: int, length: int) -> Callable[[], None]:
    """A function that takes one optimizer step on random bases, with 12 % masked and boundaries as in a healthy run."""
    torch.manual_seed(0)
    model = DNAChunkerForMaskedLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    truth = torch.randint(7, 11, (batch, length))
    ids = torch.where(torch.rand(truth.shape) < 0.12, 3, truth)
    labels = torch.where(ids == 3, truth, -100)
    # With mask protection these give 0.51 and 0.31 chunks a base, as a trained model does on masked sequence.
    every = [(torch.arange(length) % stride == 0).expand(batch, length) for stride in (3, 9)]

    def step() -> None:
        model(ids, labels=labels, boundaries=every).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--skip-172m", action="store_true", help="leave out the 172M model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads")
    print(f"{'what':48} {'median':>14} {'best':>14} {'by CPU time':>14}  target")

    def row(what: str, seconds: tuple[float, float, float], show: Callable[[float], str], target: str) -> None:
        print(f"{what:48} " + " ".join(f"{show(value):>14}" for value in seconds) + f"  {target}", flush=True)

    def bases(seconds: float) -> str:
        return f"{8192 / seconds:,.0f} b/s"

    row("scan forward + backward, 8 x 1,024 x 256", time_scan(), lambda s: f"{s * 1e3:.1f} ms", "<= 22 ms")
    tiny = median_seconds(training_step(DNAChunkerConfig(**TINY), 8, 1024), 15)
    row("training preset tiny", tiny, bases, ">= 17,000 bases/s")
    if not arguments.skip_172m:
        step = median_seconds(training_step(DNAChunkerConfig(), 1, 2048), 2)
        row("172M training step, 2,048 bases", step, lambda s: f"{s:.1f} s", "<= 4.5 s")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{'172M training step, peak memory':48} {peak:>10.1f} GiB {'':>29}  <= 6 GiB")


if __name__ == "__main__":
    main()

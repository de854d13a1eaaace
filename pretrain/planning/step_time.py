"""How long a run takes on N GPUs: a model of compute, ZeRO's collectives, stragglers, checkpoints and failures.

The step waits for its slowest rank, then for the part of the collectives that does not hide behind computing. Beside
the steps, time goes into checkpoints and into what failures undo. docs/operations.md derives the terms and says which
numbers are assumptions.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from .hardware import Hardware

_LATENCY = 20e-6  # seconds of one hop of a collective, NCCL over a cluster's network
_HASH_RATE = 1.0e9  # bytes a second: rank 0 writes the sha256 of every file into a checkpoint's manifest


@dataclass(frozen=True)
class Assumptions:
    """What a plan takes for granted, to be replaced by what you measure.

    Attributes:
        utilisation: share of the data sheet's matrix rate that a rank's own computing reaches, by model FLOPs.
        overlap: share of the collectives that hides behind computing.
        window_variation: standard deviation over mean of the work of one window; see `benchmarks/stragglers.py`.
        storage: bytes a second that all ranks together write to the run folder.
        hours_between_failures: of one GPU with its share of everything around it.
        restart_seconds: from a failure until the first step after it.
    """

    utilisation: float = 0.40
    overlap: float = 0.5
    window_variation: float = 0.08  # measured; see docs/operations.md
    storage: float = 5e9
    hours_between_failures: float = 50_000.0
    restart_seconds: float = 240.0


@dataclass(frozen=True)
class Workload:
    """What one optimizer step asks of a rank.

    Attributes:
        parameters: of the model.
        value_bytes: of a parameter or gradient in the collectives: 2 in bf16, 4 in fp32.
        flops: model FLOPs of one rank's windows in one step.
        windows: of a rank, in one step.
        passes: forward passes they are cut into.
        zero_stage: 0 to 3.
        checkpoint_bytes: of one checkpoint, over all ranks.
        checkpoint_steps: steps from one to the next.
    """

    parameters: int
    value_bytes: int
    flops: float
    windows: int
    passes: int
    zero_stage: int
    checkpoint_bytes: float
    checkpoint_steps: int


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step on average, by cause; they add up to `total`."""

    compute: float
    stragglers: float
    collectives: float
    checkpoints: float
    failures: float

    @property
    def total(self) -> float:
        return self.compute + self.stragglers + self.collectives + self.checkpoints + self.failures

    @property
    def efficiency(self) -> float:
        """Share of the time that a rank computes; 1 if it were alone and nothing failed."""
        return self.compute / self.total


def collective_bytes(work: Workload, ranks: int) -> float:
    """Bytes a rank sends in one optimizer step (and as many come in), with ring collectives.

    Stages 0 and 1 reduce gradients once a step and share out parameters once; stage 2 reduces in every forward pass of
    an accumulation; stage 3 also gathers the parameters twice in each (Rajbhandari et al. 2020, arXiv 1910.02054).
    """
    if ranks == 1:
        return 0.0
    once = work.parameters * work.value_bytes * (ranks - 1) / ranks
    return once * {0: 2, 1: 2, 2: work.passes + 1, 3: 3 * work.passes}[work.zero_stage]


def expected_maximum(ranks: int) -> float:
    """Mean of the largest of `ranks` standard normal values (Blom 1958: the quantile of (n - a) / (n - 2 a + 1))."""
    return 0.0 if ranks < 2 else NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def step_time(
    work: Workload, hardware: Hardware, precision: str, ranks: int, per_node: int, given: Assumptions
) -> StepTime:
    """Seconds of a step on `ranks` GPUs, `per_node` of them in a machine."""
    compute = work.flops / (hardware.rate(precision) * given.utilisation)
    # At stages 0 and 1 ranks meet once a step: the sums of a rank's windows compete. From stage 2 on every pass reduces
    # gradients and waits for the slowest rank
    meetings = work.passes if work.zero_stage >= 2 else 1
    together = work.windows / meetings
    stragglers = compute * given.window_variation / math.sqrt(together) * expected_maximum(ranks)

    nodes = math.ceil(ranks / per_node)
    bandwidth = hardware.between_nodes if nodes > 1 else hardware.within_node
    hops = 2 * math.ceil(math.log2(max(2, ranks))) * (work.passes if work.zero_stage >= 2 else 1)
    sending = collective_bytes(work, ranks) / bandwidth + (hops * _LATENCY if ranks > 1 else 0.0)
    collectives = sending - min(given.overlap * sending, 0.5 * compute)  # only backward passes have room to hide it

    checkpoints = save_seconds(work, given) / work.checkpoint_steps
    undisturbed = compute + stragglers + collectives + checkpoints
    lost = given.restart_seconds + undisturbed * work.checkpoint_steps / 2
    rate = ranks / (given.hours_between_failures * 3600)
    failures = undisturbed * rate * lost
    return StepTime(compute, stragglers, collectives, checkpoints, failures)


def save_seconds(work: Workload, given: Assumptions) -> float:
    """Seconds that training stands still for one checkpoint."""
    return work.checkpoint_bytes * (1 / given.storage + 1 / _HASH_RATE)


def best_checkpoint_steps(work: Workload, step: StepTime, ranks: int, given: Assumptions) -> int:
    """Steps between checkpoints that lose least time (Young 1974): sqrt(2 x saving x time between failures)."""
    saving = save_seconds(work, given)
    between = given.hours_between_failures * 3600 / ranks
    undisturbed = step.compute + step.stragglers + step.collectives
    return max(1, round(math.sqrt(2 * saving * between) / undisturbed))

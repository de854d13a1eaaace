"""How long a run takes on N GPUs: a model of compute, ZeRO's collectives, stragglers, checkpoints and failures.

A step waits for its slowest rank, then for the part of the collectives that does not overlap with computing. Further
time goes into checkpoints and into the steps that failures undo. docs/operations.md derives the terms and says which
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
    """The assumptions of a plan; replace them by what you measure.

    Attributes:
        utilisation: share of the data sheet's matrix rate that a rank's own computing reaches, by model FLOPs.
        overlap: share of the collectives that overlaps with computing.
        window_variation: standard deviation over mean of the work of one window; see `benchmarks/stragglers.py`.
        storage: bytes a second that all ranks together write to the run folder.
        hours_between_failures: mean, of one GPU with its share of the machine and the network.
        restart_seconds: from a failure to the next step.
    """

    utilisation: float = 0.40
    overlap: float = 0.5
    window_variation: float = 0.08  # measured; see docs/operations.md
    storage: float = 5e9
    hours_between_failures: float = 50_000.0
    restart_seconds: float = 240.0


@dataclass(frozen=True)
class Workload:
    """The work of one rank in one optimizer step.

    Attributes:
        parameters: of the model.
        value_bytes: of a parameter or gradient in the collectives: 2 in bf16, 4 in fp32.
        flops: model FLOPs of one rank's windows in one step.
        windows: of a rank, in one step.
        passes: forward passes of a rank in one step.
        zero_stage: 0 to 3.
        checkpoint_bytes: of one checkpoint, over all ranks.
        checkpoint_steps: steps from one checkpoint to the next.
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
        """Share of the time in which a rank computes; 1 for a single rank without checkpoints and failures."""
        return self.compute / self.total


def collective_bytes(work: Workload, ranks: int) -> float:
    """Bytes that a rank sends (and receives) in one optimizer step, with ring collectives.

    ZeRO stages 0 and 1 reduce gradients and gather parameters once a step. ZeRO stage 2 reduces gradients in every
    pass; ZeRO stage 3 also gathers the parameters twice in every pass (Rajbhandari et al. 2020, arXiv 1910.02054).
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
    """Seconds of a step on `ranks` GPUs, `per_node` of them in each machine."""
    compute = work.flops / (hardware.rate(precision) * given.utilisation)
    # At ZeRO stages 0 and 1 ranks wait for each other once a step, so work averages over all windows of a rank. From
    # ZeRO stage 2 on every pass reduces gradients and waits for the slowest rank.
    meetings = work.passes if work.zero_stage >= 2 else 1
    together = work.windows / meetings
    stragglers = compute * given.window_variation / math.sqrt(together) * expected_maximum(ranks)

    nodes = math.ceil(ranks / per_node)
    bandwidth = hardware.between_nodes if nodes > 1 else hardware.within_node
    hops = 2 * math.ceil(math.log2(max(2, ranks))) * (work.passes if work.zero_stage >= 2 else 1)
    sending = collective_bytes(work, ranks) / bandwidth + (hops * _LATENCY if ranks > 1 else 0.0)
    collectives = sending - min(given.overlap * sending, 0.5 * compute)  # overlaps with backward only

    checkpoints = save_seconds(work, given) / work.checkpoint_steps
    undisturbed = compute + stragglers + collectives + checkpoints
    lost = given.restart_seconds + undisturbed * work.checkpoint_steps / 2
    rate = ranks / (given.hours_between_failures * 3600)
    failures = undisturbed * rate * lost
    return StepTime(compute, stragglers, collectives, checkpoints, failures)


def save_seconds(work: Workload, given: Assumptions) -> float:
    """Seconds that training stops for one checkpoint."""
    return work.checkpoint_bytes * (1 / given.storage + 1 / _HASH_RATE)


def best_checkpoint_steps(work: Workload, step: StepTime, ranks: int, given: Assumptions) -> int:
    """The steps between checkpoints that lose least time (Young 1974): sqrt(2 x saving x time between failures)."""
    saving = save_seconds(work, given)
    between = given.hours_between_failures * 3600 / ranks
    undisturbed = step.compute + step.stragglers + step.collectives
    return max(1, round(math.sqrt(2 * saving * between) / undisturbed))

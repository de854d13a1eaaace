"""How long a run takes on N GPUs: a model of compute, ZeRO's collectives, stragglers, checkpoints and failures.

A step waits for the host where it starts operations too slowly, then for the slowest rank, then for the part of the
collectives that does not overlap with computing. Further time goes into checkpoints and into the steps that failures
undo. docs/operations.md derives the terms and says which numbers are assumptions.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from .collectives import all_gather_seconds, all_reduce_seconds, bus_bandwidth
from .hardware import Hardware

if TYPE_CHECKING:
    from dnachunker.model.configuration_dnachunker import DNAChunkerConfig

_HASH_RATE = 1.0e9  # bytes a second of sha256, as if one rank hashed all files; each rank hashes its own
_PREFETCH_VALUES = 50_000_000  # DeepSpeed's stage3_prefetch_bucket_size
_BACKWARD_SHARE = 2 / 3  # of a pass
# Operations of a forward and a backward pass in plain torch; a test compares them with what torch dispatches
_FIXED_OPERATIONS, _STAGE_OPERATIONS, _TRUNK_LAYER_OPERATIONS = 111, 179, 63
_QK_NORM_OPERATIONS = 40  # of a trunk layer
# Time that a model FLOP of a layer in blocks takes, over one of the whole step: most of such a layer is its scan, which
# counts none. Counted for the GPUs of data centres; a test compares it with benchmarks/step_cost.py.
_REPEATED = 2.8
_MIXER_LAYER_OPERATIONS = {"bimamba": 125, "conv": 62, "transformer": 148}


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of a plan; replace them by what you measure.

    Attributes:
        utilisation: share of the data sheet's matrix rate that a rank's own computing reaches, by model FLOPs; the plan
            takes it from `Hardware.utilisation`.
        operation_seconds: in which the host starts one operation on the GPU.
        link_share: share of the data sheet's link rates that collectives reach.
        window_variation: standard deviation over mean of the work of one window; see `benchmarks/stragglers.py`.
        storage: bytes a second that all ranks together write to the run folder.
        hours_between_failures: mean, of one GPU with its share of the machine and the network.
        restart_seconds: from a failure to the next step.
    """

    utilisation: float = 0.22
    operation_seconds: float = 5e-6
    link_share: float = 0.8
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
        repeated: model FLOPs in it that layers in blocks of time compute beside those.
        windows: of a rank, in one step.
        passes: forward passes of a rank in one step.
        operations: that the host starts in one pass, forward and backward.
        zero_stage: 0 to 3.
        bucket_values: gradients that DeepSpeed reduces at a time.
        overlap: DeepSpeed's overlap_comm: collectives run beside computing where they can.
        checkpoint_bytes: of one checkpoint, over all ranks.
        checkpoint_steps: steps from one checkpoint to the next.
        parameter_groups: of the optimizer; ZeRO stages 1 and 2 gather the parameters of each in a call of its own.
        context_parallel: ranks that share each window; `flops` are then of this rank's stretches.
        group_bytes: that a rank sends to those ranks in a step.
    """

    parameters: int
    value_bytes: int
    flops: float
    windows: int
    passes: int
    operations: int
    zero_stage: int
    bucket_values: int
    overlap: bool
    checkpoint_bytes: float
    checkpoint_steps: int
    parameter_groups: int = 2
    context_parallel: int = 1
    group_bytes: float = 0.0
    repeated: float = 0.0


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step on average, by cause; they add up to `total`.

    `host` is the time in which the GPU waits for the host, which starts its operations.
    """

    compute: float
    host: float
    stragglers: float
    collectives: float
    checkpoints: float
    failures: float

    @property
    def total(self) -> float:
        return self.compute + self.host + self.stragglers + self.collectives + self.checkpoints + self.failures

    @property
    def efficiency(self) -> float:
        """Share of the time in which a rank computes; 1 for a single rank without checkpoints and failures."""
        return self.compute / self.total


def operations_of_pass(network: "DNAChunkerConfig") -> int:
    """Operations that the host starts for a forward and a backward pass, whatever the size of the batch."""
    mixers = sum(network.encoder_layers) + sum(network.decoder_layers)
    of_trunk_layer = _TRUNK_LAYER_OPERATIONS + (_QK_NORM_OPERATIONS if network.qk_norm else 0)
    counted = _FIXED_OPERATIONS + _STAGE_OPERATIONS * network.stages + of_trunk_layer * network.trunk_layers
    return counted + _MIXER_LAYER_OPERATIONS[network.mixer] * mixers


def collective_bytes(work: Workload, ranks: int) -> float:
    """Bytes that a rank sends (and receives) in one optimizer step, with ring collectives.

    ZeRO stages 0 and 1 all-reduce the gradients once a step, stage 2 in every pass: DeepSpeed 0.19 reduces buckets that
    hold gradients of several ranks with an all-reduce. Stages 1 and 2 then gather the parameters once. Stage 3 scatters
    the reduced gradients and gathers the parameters twice, in every pass.
    """
    if ranks == 1:
        return 0.0
    once = work.parameters * work.value_bytes * (ranks - 1) / ranks
    return once * {0: 2, 1: 3, 2: 2 * work.passes + 1, 3: 3 * work.passes}[work.zero_stage]


def expected_maximum(ranks: int) -> float:
    """Mean of the largest of `ranks` standard normal values (Blom 1958: the quantile of (n - a) / (n - 2 a + 1))."""
    return 0.0 if ranks < 2 else NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def step_time(
    work: Workload, hardware: Hardware, precision: str, ranks: int, per_node: int, given: Assumptions
) -> StepTime:
    """Seconds of a step on `ranks` GPUs, `per_node` of them in each machine."""
    compute = (work.flops + _REPEATED * work.repeated) / (hardware.rate(precision) * given.utilisation)
    busy = max(compute, work.passes * work.operations * given.operation_seconds)
    # At ZeRO stages 0 and 1 ranks wait for each other once a step, so work averages over all windows of a rank. From
    # ZeRO stage 2 on every pass reduces gradients and waits for the slowest rank.
    meetings = work.passes if work.zero_stage >= 2 else 1
    together = work.windows / meetings
    slowest = compute * (1 + given.window_variation / math.sqrt(together) * expected_maximum(ranks))
    stragglers = max(slowest, busy) - busy  # where the host sets the pace, it does so on every rank
    collectives = _collective_seconds(work, hardware, ranks, per_node, given, pass_seconds=busy / work.passes)
    # layers wait for what other ranks of the group send; a group's ranks are neighbours
    bandwidth = bus_bandwidth(hardware, work.context_parallel, per_node)
    collectives += work.group_bytes / (given.link_share * bandwidth)

    checkpoints = save_seconds(work, given) / work.checkpoint_steps
    undisturbed = busy + stragglers + collectives + checkpoints
    lost = given.restart_seconds + undisturbed * work.checkpoint_steps / 2
    rate = ranks / (given.hours_between_failures * 3600)
    failures = undisturbed * rate * lost
    return StepTime(compute, busy - compute, stragglers, collectives, checkpoints, failures)


def _collective_seconds(
    work: Workload, hardware: Hardware, ranks: int, per_node: int, given: Assumptions, *, pass_seconds: float
) -> float:
    """Seconds of a step's collectives that do not overlap with computing.

    A bucket is reduced when it is full, beside the backward pass that fills the next one. So the last bucket of a pass
    overlaps with nothing, which is all of them where one bucket holds all gradients.
    """
    size = work.parameters * work.value_bytes
    links = (hardware, ranks, per_node, given.link_share)
    buckets = math.ceil(work.parameters / work.bucket_values)
    meetings = work.passes if work.zero_stage >= 2 else 1
    reduce = all_gather_seconds if work.zero_stage == 3 else all_reduce_seconds
    reductions = meetings * buckets * reduce(size / buckets, *links)
    hidden = min(reductions * (1 - 1 / buckets), meetings * _BACKWARD_SHARE * pass_seconds)
    gathers = 0.0
    if work.zero_stage in (1, 2):
        gathers = all_gather_seconds(size, *links) + (work.parameter_groups - 1) * all_gather_seconds(0, *links)
    if work.zero_stage == 3:
        fetches = math.ceil(work.parameters / _PREFETCH_VALUES)
        gathers = 2 * work.passes * fetches * all_gather_seconds(size / fetches, *links)
        hidden = min(hidden + gathers * (1 - 1 / fetches), work.passes * pass_seconds)
    return reductions + gathers - (hidden if work.overlap and work.zero_stage else 0.0)


def save_seconds(work: Workload, given: Assumptions) -> float:
    """Seconds that training stops for one checkpoint."""
    return work.checkpoint_bytes * (1 / given.storage + 1 / _HASH_RATE)


def best_checkpoint_steps(work: Workload, step: StepTime, ranks: int, given: Assumptions) -> int:
    """The steps between checkpoints that lose least time (Young 1974): sqrt(2 x saving x time between failures)."""
    saving = save_seconds(work, given)
    between = given.hours_between_failures * 3600 / ranks
    undisturbed = step.compute + step.host + step.stragglers + step.collectives
    return max(1, round(math.sqrt(2 * saving * between) / undisturbed))

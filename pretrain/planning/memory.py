"""Memory of one rank and size of a checkpoint under DeepSpeed's ZeRO, computed from sizes.

States follow Rajbhandari et al. 2020 (arXiv 1910.02054), as this DeepSpeed lays them out (measured by
`benchmarks/zero_memory.py`); the peak is the larger of two moments: activations at the start of a backward pass, and
the temporaries of the update.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import activation_bytes, parameters

BUCKET_VALUES = 500_000_000  # DeepSpeed's reduce_bucket_size, allocated whole on a GPU
_BF16_ACTIVATIONS = 0.9  # share of fp32 activations, measured: the scan and its inputs stay in fp32


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank.

    Attributes:
        parameters, gradients, optimizer: kept from step to step, and through all passes of an accumulation.
        activations: kept from the forward to the backward pass of one micro-batch.
        buckets: DeepSpeed's buffers for reducing gradients.
        update: temporaries of the optimizer's update.
        gradients_stay: gradients and activations are held together; in a single pass, gradients come as activations go.
    """

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    buckets: float
    update: float
    gradients_stay: bool

    @property
    def states(self) -> float:
        return self.parameters + self.gradients + self.optimizer

    @property
    def peak(self) -> float:
        """The most bytes held at one time."""
        kept = self.gradients if self.gradients_stay else 0.0
        backward = self.parameters + self.optimizer + max(self.activations + kept, self.gradients) + self.buckets
        return max(backward, self.states + self.update)


def rank_memory(
    network: DNAChunkerConfig,
    *,
    ranks: int,
    zero_stage: int,
    precision: str,
    bases: int,
    chunks_per_base: Sequence[float],
    passes: int = 1,
    checkpointing: bool = False,
    reserved_buckets: bool = False,
    bucket_values: int = BUCKET_VALUES,
    offload_optimizer: bool = False,
) -> RankMemory:
    """The memory of each of `ranks` ranks.

    Args:
        precision: fp32 or bf16.
        bases: of one micro-batch.
        chunks_per_base: as in `model.cost.flops_per_base`.
        passes: forward passes in one optimizer step.
        checkpointing: activation checkpointing.
        reserved_buckets: count DeepSpeed's buckets whole, as a GPU's allocator does; else only the part in use.
        bucket_values: DeepSpeed's reduce_bucket_size.
        offload_optimizer: optimizer states and update are in host memory, and do not count.
    """
    count = sum(parameters(network).values())
    value = 2 if precision == "bf16" else 4
    share = count / ranks
    parts = {0: count, 1: count, 2: count, 3: share}[zero_stage]
    gathered = count * value if zero_stage == 3 else 0.0  # below stage3_max_live_parameters all stay gathered
    # ZeRO stage 1 shards gradients only at the last of several passes
    gradients = value * (count if zero_stage == 0 or (zero_stage == 1 and passes > 1) else share)
    master = 4 if zero_stage or precision == "bf16" else 0
    optimizer = (8 + master) * (count if zero_stage == 0 else share)
    offloaded = offload_optimizer and zero_stage > 0
    activations = activation_bytes(network, bases, chunks_per_base, checkpointing=checkpointing)
    if precision == "bf16":
        activations *= _BF16_ACTIVATIONS
    touched = min(count, bucket_values) if zero_stage == 3 else 0.0  # ZeRO 1 and 2 free it between passes
    buckets = value * (bucket_values if reserved_buckets else touched) if zero_stage else 0.0
    owned = optimizer / (8 + master)  # values whose update this rank computes
    # gradients flattened and in fp32, and two temporaries of Adam's denominator
    update = (value + (4 if precision == "bf16" else 0) + 8) * owned if zero_stage and not offloaded else 0.0
    return RankMemory(
        value * parts + gathered,
        gradients,
        0.0 if offloaded else optimizer,
        activations,
        buckets,
        update,
        passes > 1 or zero_stage == 3,
    )


def checkpoint_bytes(count: int, zero_stage: int, precision: str) -> float:
    """Bytes of one checkpoint of `count` parameters, over all ranks: weights, and the optimizer's fp32 values."""
    value = 2 if precision == "bf16" else 4
    master = 4 if zero_stage or precision == "bf16" else 0
    return count * (value + 8 + master)

"""Memory of one rank and size of a checkpoint under DeepSpeed's ZeRO, computed from sizes.

States follow Rajbhandari et al. 2020 (arXiv 1910.02054), as this DeepSpeed lays them out (measured by
`benchmarks/zero_memory.py`); the peak is the larger of two moments: activations at the start of a backward pass, and
the temporaries of the update.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import activation_bytes, parameters
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.network import expected_chunks_per_base

BUCKET_VALUES = 500_000_000  # DeepSpeed's reduce_bucket_size, allocated whole on a GPU
# Share of free memory that a plan may fill. The rest is for what a plan leaves out: up to 12 % by which measured peaks
# exceed it, more chunks in the first steps than later, fragments of the allocator.
FILLED = 0.8
_BF16_ACTIVATIONS = 0.9  # share of fp32 activations, measured: the scan and its inputs stay in fp32
# Chunks per base at stages 0 and 1, with the masks of pretraining; docs/model.md has those of trained models.
_CHUNKS_PER_BASE = (0.56, 0.31)


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
    average: bool = False,
    context_parallel: int = 1,
    window: int = 0,
    layer_block: int = 0,
) -> RankMemory:
    """The memory of each of `ranks` ranks.

    Args:
        precision: as in `engine.precision`.
        bases: of one micro-batch, on one rank.
        chunks_per_base: as in `model.cost.flops_per_base`.
        passes: forward passes in one optimizer step.
        checkpointing: activation checkpointing.
        reserved_buckets: count DeepSpeed's buckets whole, as a GPU's allocator does; else only the part in use.
        bucket_values: DeepSpeed's reduce_bucket_size.
        offload_optimizer: optimizer states and update are in host memory, and do not count.
        average: with `optimizer.ema`, which lies where the optimizer's states lie.
        context_parallel: ranks that share each window.
        window: bases of the longest window. layer_block: `engine.layer_block`.
    """
    count = sum(parameters(network).values())
    value = value_bytes(precision)
    share = count / ranks
    parts = {0: count, 1: count, 2: count, 3: share}[zero_stage]
    gathered = count * value if zero_stage == 3 else 0.0  # below stage3_max_live_parameters all stay gathered
    # ZeRO stage 1 shards gradients only at the last of several passes
    gradients = value * (count if zero_stage == 0 or (zero_stage == 1 and passes > 1) else share)
    master = 4 if zero_stage or precision == "bf16" else 0
    updated = count if zero_stage == 0 else share  # values whose update this rank computes
    optimizer = (8 + master + 4 * average) * updated
    offloaded = offload_optimizer and zero_stage > 0
    activations = activation_bytes(
        network, bases, chunks_per_base, checkpointing=checkpointing, ranks=context_parallel, window=window,
        layer_block=layer_block, value_bytes=4 if precision == "fp32" else 4 * _BF16_ACTIVATIONS, stream_bytes=value,
    )  # fmt: skip
    if precision == "bf16-autocast":
        activations += 2 * count  # autocast keeps bf16 copies of the weights from forward to backward
    touched = min(count, bucket_values) if zero_stage == 3 else 0.0  # ZeRO 1 and 2 free it between passes
    buckets = value * (bucket_values if reserved_buckets else touched) if zero_stage else 0.0
    # gradients flattened and in fp32, and two temporaries of Adam's denominator
    update = (value + (4 if precision == "bf16" else 0) + 8) * updated if zero_stage and not offloaded else 0.0
    return RankMemory(
        value * parts + gathered,
        gradients,
        0.0 if offloaded else optimizer,
        activations,
        buckets,
        update,
        passes > 1 or zero_stage == 3,
    )


def value_bytes(precision: str) -> int:
    """Bytes of a weight, of a gradient and of either in a collective."""
    return 2 if precision == "bf16" else 4


def activation_value_bytes(precision: str) -> int:
    """Bytes of an activation between layers."""
    return 4 if precision == "fp32" else 2


def chunks_per_base(config: PretrainConfig) -> tuple[float, ...]:
    """Chunks per base of masked input at each stage, from which plans are computed."""
    if config.tokenization.kind == "learned" and len(config.model.encoder_layers) == len(_CHUNKS_PER_BASE):
        return _CHUNKS_PER_BASE
    expected = expected_chunks_per_base(config.model, config.tokenization, config.masking)
    return tuple(round(chunks, 2) for chunks in expected)


def planned_memory(
    config: PretrainConfig, network: DNAChunkerConfig, ranks: int, micro_batch: int, **changes: Any
) -> RankMemory:
    """The memory of each of `ranks` ranks of a run in its largest phase, with DeepSpeed's buckets counted whole.

    Args:
        micro_batch: windows in a pass of the first phase.
        changes: arguments of `rank_memory` that replace those of the config.
    """
    engine, phases, data_ranks = config.engine, config.data.phases, config.data_ranks(ranks)
    passes = phases[0].global_batch // data_ranks // micro_batch
    arguments: dict[str, Any] = {
        "zero_stage": engine.zero_stage, "precision": engine.precision, "passes": passes,
        "context_parallel": engine.context_parallel, "layer_block": engine.layer_block,
        "chunks_per_base": chunks_per_base(config), "checkpointing": engine.activation_checkpointing,
        "reserved_buckets": True, "bucket_values": bucket_values(config),
        "offload_optimizer": engine.offload_optimizer, "average": config.optimizer.ema is not None,
    }  # fmt: skip
    # not the most bases with the longest window: layers run in blocks in phases of long windows only
    found = (
        rank_memory(network, ranks=ranks, **{**arguments, "bases": bases, "window": phase.seq_len, **changes})
        for phase in phases
        for bases in [phase.global_batch // data_ranks // passes * math.ceil(phase.seq_len / engine.context_parallel)]
    )
    return max(found, key=lambda memory: memory.peak)


def largest_micro_batch(
    config: PretrainConfig, network: DNAChunkerConfig, ranks: int, memory: float, **changes: Any
) -> int | None:
    """The largest micro-batch of a run whose plan fits into `memory` bytes of each rank; None if no plan fits.

    Args:
        changes: as in `planned_memory`.
    """
    fitting = [
        windows
        for windows in config.micro_batches(ranks)
        if planned_memory(config, network, ranks, windows, **changes).peak <= memory
    ]
    return max(fitting, default=None)


def bucket_values(config: PretrainConfig) -> int:
    """Values that DeepSpeed reduces at a time."""
    return int(config.engine.deepspeed.get("zero_optimization", {}).get("reduce_bucket_size", BUCKET_VALUES))


def checkpoint_bytes(count: int, *, average: bool = False) -> int:
    """Bytes of a checkpoint of `count` parameters, over all ranks: weights, moments and their average, in float32."""
    return (12 + 4 * average) * count

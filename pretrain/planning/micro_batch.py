"""Windows in a pass: `engine.micro_batch=auto` takes as many as the memory plan allows on every rank."""

import platform

import torch

from dnachunker.foundations.failures import BadInputOnAllRanks
from dnachunker.foundations.free_memory import free_bytes
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.network import network_config
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.safety.out_of_memory import sharding_advice

from .memory import FILLED, largest_micro_batch, planned_memory

_GIB = 2**30
_HOPELESS = 1.25  # of a GPU's memory: measured peaks are within 15 % of the plan


def choose_micro_batch(
    config: PretrainConfig, rank: Rank, earlier: int | None = None
) -> tuple[PretrainConfig, str | None]:
    """The config with a number as micro-batch, and a line that says why; collective, and the same on every rank.

    The line is None if the config has a number already.

    Args:
        earlier: the number with which as many ranks began this run. It is kept where its plan fits into what is free,
            because another number would change how sums are rounded.

    Raises:
        BadInputOnAllRanks: not even the smallest micro-batch fits, or the config's number is far beyond a GPU's memory.
    """
    network, ranks = network_config(config.model, config.tokenization), rank.world_size
    if config.engine.micro_batch != "auto":
        _require_hope(config, network, rank)
        return config, None
    on_gpu = rank.device.type == "cuda"
    free = _least_free_bytes(rank)
    windows = largest_micro_batch(config, network, ranks, FILLED * free, reserved_buckets=on_gpu)
    if earlier in config.micro_batches(ranks):
        planned = planned_memory(config, network, ranks, earlier, reserved_buckets=on_gpu).peak
        windows = earlier if planned <= free else windows
    smallest = config.micro_batches(ranks)[0]
    needed = planned_memory(config, network, ranks, windows or smallest, reserved_buckets=on_gpu).peak / _GIB
    where = "GPU memory" if on_gpu else "memory for each rank"
    if windows is None:
        raise BadInputOnAllRanks(
            f"engine.micro_batch=auto: windows of {max(phase.seq_len for phase in config.data.phases):,} bases, "
            f"{smallest} in a pass, need about {needed:.1f} GiB, and {free / _GIB:.1f} GiB of {where} are free, of "
            f"which a plan fills at most {FILLED:.0%}; {_advice(config)}"
        )
    return config.with_micro_batch(windows), (
        f"engine.micro_batch=auto: {windows} x {config.data.seq_len:,} bases in a pass, planned to need "
        f"{needed:.1f} GiB; {free / _GIB:.1f} GiB of {where} are free"
    )


def _require_hope(config: PretrainConfig, network: DNAChunkerConfig, rank: Rank) -> None:
    if rank.device.type != "cuda" or "zero_optimization" in config.engine.deepspeed:
        return  # the plan does not know what such keys save
    memory = min(rank.gather(torch.cuda.mem_get_info(rank.device)[1]))
    windows = config.data.global_batch // config.data_ranks(rank.world_size) // config.accumulation(rank.world_size)
    needed = planned_memory(config, network, rank.world_size, windows, reserved_buckets=True).peak
    if needed > _HOPELESS * memory:
        smallest = config.micro_batches(rank.world_size)[0]
        auto = "set engine.micro_batch=auto, " if windows > smallest else ""
        longest = max(phase.seq_len for phase in config.data.phases)
        raise BadInputOnAllRanks(
            f"engine.micro_batch: {windows} windows of up to {longest:,} bases in a pass need about "
            f"{needed / _GIB:.1f} GiB, and a GPU has {memory / _GIB:.1f} GiB; "
            f"{auto}{_remedies(config)}"
        )


def _least_free_bytes(rank: Rank) -> float:
    """Free memory of the rank that has least; ranks that compute on CPUs share the memory of their machine."""
    if rank.device.type == "cuda":
        return float(min(rank.gather(torch.cuda.mem_get_info(rank.device)[0])))
    machines = rank.gather((platform.node(), free_bytes()))
    hosts = [host for host, _ in machines]
    return min(available / hosts.count(host) for host, available in machines)


def _advice(config: PretrainConfig) -> str:
    return f"{_remedies(config)}, or set engine.micro_batch to a number to try it all the same"


def _remedies(config: PretrainConfig) -> str:
    engine, advice = config.engine, []
    if not engine.activation_checkpointing:
        advice.append("set engine.activation_checkpointing=true")
    advice.append("shorten data.seq_len")
    advice += sharding_advice(engine)
    if not config.split_refusal():
        # such layers run whole, so two ranks may each need more than one rank whose layers run in blocks
        in_blocks = engine.context_parallel == 1 and 0 < engine.layer_block < max(p.seq_len for p in config.data.phases)
        shared = 4 if in_blocks else 2 * engine.context_parallel
        advice.append(f"share each window among {shared} of several ranks with engine.context_parallel={shared}")
    return ", ".join(advice)

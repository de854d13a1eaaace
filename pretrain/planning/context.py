"""Windows that several GPUs share: memory of a GPU by window length, and what the GPUs of a group send each other."""

import math
from typing import TYPE_CHECKING

from dnachunker.model.cost import group_bytes

from .memory import FILLED, activation_value_bytes, chunks_per_base, planned_memory

if TYPE_CHECKING:
    from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
    from dnachunker.pretrain.config import PretrainConfig

    from .hardware import Hardware

_LENGTHS = (8_192, 65_536, 131_072, 524_288, 1_048_576)
_SHARED = (1, 2, 4, 8)


def sent_in_group(config: "PretrainConfig", network: "DNAChunkerConfig", windows: int) -> float:
    """Bytes that a rank sends to the ranks of its context group, in forward and backward passes of so many windows."""
    engine = config.engine
    bases = windows * math.ceil(config.data.seq_len / engine.context_parallel)
    return group_bytes(
        network, windows, bases, chunks_per_base(config), ranks=engine.context_parallel,
        value_bytes=activation_value_bytes(engine.precision), checkpointing=engine.activation_checkpointing,
    )  # fmt: skip


def split_windows(
    config: "PretrainConfig", network: "DNAChunkerConfig", gpus: int, hardware: "Hardware"
) -> list[list[str]]:
    """A table by window length and `engine.context_parallel`, one window in a pass; none if windows cannot be split."""
    shared = [ranks for ranks in _SHARED if gpus % ranks == 0]
    if config.split_refusal() or len(shared) < 2:
        return []
    lines = [
        f"one window in a pass, shared by GPUs (engine.context_parallel): GiB of each of {gpus} GPUs, and GB that "
        "it sends to its group",
        f"{'bases':>11}" + "".join(f"{f'{ranks} GPU' + 's' * (ranks > 1):>19}" for ranks in shared),
    ]
    for length in _LENGTHS:
        line = f"{length:>11,}"
        for ranks in shared:
            engine = config.engine.model_copy(update={"context_parallel": ranks})
            data = config.data.model_copy(update={"seq_len": length, "global_batch": gpus // ranks, "curriculum": ()})
            planned = config.model_copy(update={"engine": engine, "data": data})
            peak = planned_memory(planned, network, gpus, 1).peak
            mark = "*" if peak > FILLED * hardware.memory else " "
            line += f"{peak / 2**30:>9.1f}{mark}{sent_in_group(planned, network, 1) / 1e9:>9.2f}"
        lines.append(line)
    return [lines]

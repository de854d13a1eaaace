"""Checks that the ranks of a job make together before a run.

Started like training, as `python -m dnachunker.pretrain.planning.rank_check`.
Each rank names its kernel backends, checks their kernels and decodes some blocks of the corpus; all of them time
all-reduces.
Rank 0 writes one JSON file.
"""

import argparse
import json
import os
import random
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.shard_format import CorruptBlock
from dnachunker.foundations.failures import BadInput
from dnachunker.model.kernels import describe_backends
from dnachunker.pretrain.config import EngineSettings, ModelSettings
from dnachunker.pretrain.engine.build_model import compute_dtype
from dnachunker.pretrain.engine.deepspeed_engine import start_process_group, stop_process_group
from dnachunker.pretrain.engine.kernel_check import find_faults
from dnachunker.pretrain.engine.ranks import Rank

_BLOCKS = 16
_ROUNDS = 5
_LARGE, _LARGE_CPU = 1 << 28, 1 << 24  # bytes of the all-reduce that gives the bandwidth


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, and write the findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--corpus")
    parser.add_argument("--engine", type=EngineSettings.model_validate_json, default=EngineSettings())
    parser.add_argument("--model", type=ModelSettings.model_validate_json, default=ModelSettings())
    parsed = parser.parse_args(arguments)
    rank = Rank.from_environment()
    start_process_group(rank)
    try:
        backends, faults = _kernels(parsed.engine, parsed.model, rank)
    except BadInput as failure:  # this rank's GPU does not work any more, so no collective would
        print(f"dnachunker: rank {rank.rank} on {socket.gethostname()}: {failure}", file=sys.stderr, flush=True)
        return failure.code
    mine: dict[str, Any] = {
        "rank": rank.rank,
        "host": socket.gethostname(),
        "backends": backends,
        "kernel_faults": faults,
        "corpus_fault": _sample(parsed.corpus, rank.rank) if parsed.corpus else "",
    }
    found = {"ranks": rank.gather(mine), **_time_collectives(rank)}
    if rank.is_main:
        parsed.output.write_text(json.dumps(found) + "\n")
    stop_process_group(rank)
    return 0


def _kernels(engine: EngineSettings, model: ModelSettings, rank: Rank) -> tuple[str, list[dict[str, Any]]]:
    """The backends that the settings choose here, and what is wrong with their kernels.

    A fault `stops` a run if the settings name the backend; otherwise plain PyTorch replaces the backend.

    Raises:
        BadInput: see `find_faults`.
    """
    dtype = compute_dtype(engine)
    try:
        backends = describe_backends(engine.scan_backend, engine.attention_backend, rank.device.type, dtype)
        faults = find_faults(engine, model, rank.device)
    except ValueError as error:
        return "none", [{"found": f"engine.{error}", "stops": True}]
    return backends, [{"found": f.found, "stops": getattr(engine, f"{f.kind}_backend") != "auto"} for f in faults]


def _sample(location: str, seed: int) -> str:
    """Decode random blocks, others on each rank. Returns the first error, or nothing if all blocks are undamaged."""
    try:
        corpus = Corpus.open(location)
        table = corpus.blocks()
        rows = random.Random(seed).sample(range(len(table.bases)), min(_BLOCKS, len(table.bases)))
        for row in rows:
            corpus.read_block(table, row)
    except (BadInput, CorruptBlock) as error:
        return str(error)
    return ""


def _time_collectives(rank: Rank) -> dict[str, float]:
    """Seconds of the smallest all-reduce, and the bus bandwidth of a large one (bytes a second, as nccl-tests)."""
    if rank.world_size == 1:
        return {}
    small = torch.zeros(1, device=rank.device)
    large = torch.zeros((_LARGE if rank.device.type == "cuda" else _LARGE_CPU) // 4, device=rank.device)
    seconds = {}
    for name, tensor in (("small", small), ("large", large)):
        times = []
        for _ in range(_ROUNDS + 1):
            rank.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            if rank.device.type == "cuda":
                torch.cuda.synchronize(rank.device)
            times.append(time.perf_counter() - began)
        seconds[name] = sorted(times[1:])[_ROUNDS // 2]  # the first sets up connections
    moved = 2 * (rank.world_size - 1) / rank.world_size * large.nbytes
    return {"latency": seconds["small"], "bus_bandwidth": moved / seconds["large"]}


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # freeing DeepSpeed's objects takes seconds

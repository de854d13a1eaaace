"""Run as a script: measures the peak memory of each rank in a training step by the kernel's counters, not by torch's.

    python measured_memory.py RANKS JSON

JSON holds overrides of the sections `model`, `data` and `engine` of a pretraining config. Prints a JSON list with one
object for each rank: the growth of its resident memory (bytes) from just before the model is built to the peak, and the
chunks a base that the model made. Each rank first trains a small model, so that lazy imports and the compilation of
kernels are not counted.
"""

import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"

import torch

from dnachunker.foundations.typed_config import validate_config
from dnachunker.model import linear
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.build_model import build_model
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine, start_process_group
from dnachunker.pretrain.engine.optimizer import build_adamw
from dnachunker.pretrain.engine.ranks import Rank

# oneDNN's kernels for products of new shapes take 15 MB whatever the model, which no plan counts
linear.takes_onednn = lambda x, weight: False

SMALL = {"width": 32, "num_heads": 2, "trunk_layers": 1, "encoder_layers": [1, 1], "decoder_layers": [1, 1]}


def train(values: dict[str, Any], rank: Rank, steps: int) -> list[float]:
    """Take optimizer steps on random bases; returns the chunks a base of each stage."""
    config = validate_config(PretrainConfig, {"run": "r", "steps": 9, **values}, origin="test")
    model = build_model(config.model, config.tokenization, config.engine, seed=config.seed)
    optimizer = build_adamw(model, model.no_weight_decay_parameter_names(), config.optimizer)
    accumulation = config.accumulation(rank.world_size)
    engine = TrainingEngine(
        model, optimizer, config.engine, rank, global_batch=config.data.global_batch, accumulation=accumulation,
        clip_grad_norm=config.optimizer.clip_grad_norm,
    )  # fmt: skip
    windows = config.data.global_batch // rank.world_size // accumulation
    torch.manual_seed(rank.rank)
    for _ in range(steps):
        for _ in range(accumulation):
            ids = torch.randint(7, 11, (windows, config.data.seq_len))
            output = engine.forward(
                input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool), labels=ids,
                loss_weights=torch.ones(ids.shape), loss_normalizer=float(ids.numel()),
                sequence_normalizer=config.data.global_batch,
            )  # fmt: skip
            chunks = [float(count.sum()) / ids.numel() for count in output.chunk_counts]
            engine.backward(output.loss)
            del output
        engine.step(1e-4)
    engine.close()
    return chunks


def resident(field: str) -> int:
    """Resident bytes of this process: `VmRSS` at this moment, `VmHWM` the peak since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def measure(values: dict[str, Any]) -> dict[str, Any]:
    """Measure one rank; returns `bytes` and `chunks`."""
    rank = Rank.from_environment()
    start_process_group(rank)
    small = {"data": {"corpus": "c", "global_batch": rank.world_size, "seq_len": 64}, "model": SMALL}
    train({**small, "engine": {**values["engine"], "micro_batch": None}}, rank, 2)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    chunks = train(values, rank, 2)
    return {"bytes": resident("VmHWM") - before, "chunks": chunks}


def in_ranks(ranks: int, function: Callable[[], Any]) -> list[Any]:
    """What `function` returns on every rank, in forked processes, so that nothing is imported again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(ranks):
            if (pid := os.fork()) == 0:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_SIZE=str(ranks))
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
                Path(folder, str(rank)).write_text(json.dumps(function()))
                os._exit(0)
            children.append(pid)
        codes = [os.waitpid(pid, 0)[1] for pid in children]
        assert not any(codes), codes
        return [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]


if __name__ == "__main__":
    print(json.dumps(in_ranks(int(sys.argv[1]), lambda: measure(json.loads(sys.argv[2])))))

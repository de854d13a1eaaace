"""Bytes of parameters, gradients and optimizer that a rank holds under ZeRO stages 0 to 3, compared with the theory.

python benchmarks/zero_memory.py [--ranks 2 4] [--width 256]

bf16 with fp32 master weights; the ranks are processes on this machine. Theory for P parameters on N ranks (Rajbhandari
et al. 2020, arXiv 1910.02054): 2 P bytes of parameters, 2 P of gradients and 12 P of the optimizer. ZeRO stage 1
divides the optimizer's bytes by N, stage 2 also the gradients, stage 3 also the parameters.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"

import torch

from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.build_model import build_model
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine, start_process_group
from dnachunker.pretrain.engine.optimizer import build_adamw
from dnachunker.pretrain.engine.ranks import Rank


def storage_bytes(tensors: Any) -> int:
    """Bytes of the tensors' storages; a storage that several tensors share counts once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested lists and dicts."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


def measure(zero_stage: int, world_size: int, width: int) -> dict[str, int]:
    """Bytes that this rank holds between backward pass and optimizer step, where it holds most; `P` is a number."""
    rank = Rank.from_environment()
    start_process_group(rank)
    values = {
        "run": "r", "steps": 9, "engine": {"zero_stage": zero_stage, "precision": "bf16"},
        "data": {"corpus": "c", "global_batch": world_size, "seq_len": 64},
        "model": {
            "width": width, "encoder_layers": [1, 1], "decoder_layers": [1, 1], "trunk_layers": 4, "num_heads": 4,
        },
    }  # fmt: skip
    config = validate_config(PretrainConfig, values, origin="benchmark")
    model = build_model(config.model, config.tokenization, config.engine, seed=config.seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = build_adamw(model, model.no_weight_decay_parameter_names(), config.optimizer)
    training = TrainingEngine(
        model, optimizer, config.engine, rank, global_batch=world_size, accumulation=1,
        clip_grad_norm=config.optimizer.clip_grad_norm,
    )  # fmt: skip
    engine: Any = training.network
    ids = torch.randint(7, 11, (1, 64))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool), "labels": ids}
    inputs |= {"loss_weights": torch.ones(1, 64), "loss_normalizer": 64.0, "sequence_normalizer": 1}
    for step in range(2):
        engine.backward(engine(**inputs).loss)
        if step == 0:
            engine.step()  # the optimizer creates its states in the first step
    zero = engine.optimizer
    held = [getattr(p, "ds_tensor", p) for p in model.parameters()]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    gradients += tensors_in(getattr(zero, "averaged_gradients", {}))
    if zero_stage == 3:
        gradients += [zero.grad_partitions_flat_buffer]
    base = getattr(zero, "optimizer", zero)
    states = tensors_in([dict(state) for state in base.state.values()])
    states += [parameter for group in base.param_groups for parameter in group["params"]]
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition"):
        states += tensors_in(getattr(zero, name, []))
    return {
        "P": parameters, "parameters": storage_bytes(held), "gradients": storage_bytes(gradients),
        "optimizer": storage_bytes(states),
    }  # fmt: skip


def theory(parameters: int, zero_stage: int, ranks: int) -> float:
    """Bytes that a rank holds by theory."""
    return parameters * (
        2 / (ranks if zero_stage >= 3 else 1)
        + 2 / (ranks if zero_stage >= 2 else 1)
        + 12 / (ranks if zero_stage >= 1 else 1)
    )


def main() -> None:
    """Print the table; each row shows the rank that holds most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="numbers of ranks")
    parser.add_argument("--width", type=int, default=256, help="width of the model (default: %(default)s)")
    options = parser.parse_args()
    print("| ranks | ZeRO stage | parameters | gradients | optimizer | sum | theory | sum / theory |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for ranks in options.ranks:
        for zero_stage in range(4):
            found = in_ranks(ranks, partial(measure, zero_stage, ranks, options.width))
            most = max(found, key=lambda held: sum(held.values()))
            parts = [most[name] / 1e6 for name in ("parameters", "gradients", "optimizer")]
            expected = theory(most["P"], zero_stage, ranks) / 1e6
            cells = [*(f"{part:.1f}" for part in (*parts, sum(parts), expected)), f"{sum(parts) / expected:.2f}"]
            print(f"| {ranks} | {zero_stage} | {' | '.join(cells)} |", flush=True)


def in_ranks(ranks: int, function: Callable[[], Any]) -> list[Any]:
    """What a function returns on every rank, in forked processes, so that nothing is imported again."""
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
        if any(codes):
            raise SystemExit(f"one of {ranks} ranks failed")
        return [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]


if __name__ == "__main__":
    main()

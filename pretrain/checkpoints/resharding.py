"""Turns the optimizer states of a checkpoint, which lie in slices of ranks, into a form that any number of ranks loads.

ZeRO saves each rank's slice of a few flat vectors. DeepSpeed's universal format has one file for each parameter and
kind of state instead. DeepSpeed's own converter unpickles classes; this one reads plain values only. Every rank writes
its share of the parameters, and holds one of them in memory at a time.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import torch

from dnachunker.pretrain.engine.plain_states import ENGINE_STATE
from dnachunker.pretrain.engine.ranks import Rank

_OPTIMIZER = "optimizer_state_dict"
_FP32 = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_flat_groups"}
_STATES = {1: "base_optimizer_state", 2: "base_optimizer_state", 3: _OPTIMIZER}
_SLICES = "param_slice_mappings"


def write_universal(checkpoint: Path, folder: Path, rank: Rank) -> None:
    """Write the universal form of a verified checkpoint's engine state under `folder`/engine; collective."""
    source, target = checkpoint / ENGINE_STATE, folder / ENGINE_STATE
    if rank.is_main:
        shutil.rmtree(folder, ignore_errors=True)
    rank.barrier()
    shards = [_load(path)[_OPTIMIZER] for path in sorted(source.glob("*_optim_states.pt"), key=_rank_of)]
    stage = shards[0]["zero_stage"]
    models = sorted(source.glob("*_model_states.pt"))
    for group, shapes in enumerate(_load(models[0])["param_shapes"]):
        states = [shard[_STATES[stage]]["state"][group] for shard in shards]
        flat = {kind: [state[kind] for state in states] for kind in ("exp_avg", "exp_avg_sq")}
        flat["fp32"] = [shard[_FP32[stage]][group] for shard in shards]
        slices = _slices_of_zero_3(shapes, len(shards)) if stage == 3 else [shard[_SLICES][group] for shard in shards]
        for name, shape in list(shapes.items())[rank.rank :: rank.world_size]:
            parameter = target / "zero" / name
            parameter.mkdir(parents=True)
            torch.save(states[0]["step"].clone(), parameter / "step.pt")
            for kind, vectors in flat.items():
                pieces = [
                    vector.narrow(0, *where[name])
                    for vector, where in zip(vectors, slices, strict=True)
                    if name in where
                ]
                torch.save({"param": torch.cat(pieces).reshape(shape)}, parameter / f"{kind}.pt")
    if rank.is_main:
        (target / "zero").mkdir(parents=True, exist_ok=True)
        torch.save(_shared_state(shards[0], stage), target / "zero" / "optimizer_state.pt")
        for path in models:
            shutil.copyfile(path, target / path.name)
    rank.barrier()


def _slices_of_zero_3(shapes: dict[str, torch.Size], ranks: int) -> list[dict[str, tuple[int, int]]]:
    """For each rank, where each parameter's part begins in the flat vector, and its length without padding."""
    slices: list[dict[str, tuple[int, int]]] = [{} for _ in range(ranks)]
    begin = 0
    for name, shape in shapes.items():
        share = -(-shape.numel() // ranks)
        for rank, where in enumerate(slices):
            where[name] = begin, max(0, min(share, shape.numel() - rank * share))
        begin += share
    return slices


def _shared_state(shard: dict[str, Any], stage: int) -> dict[str, Any]:
    """What is the same on every rank. DeepSpeed looks for it in one place at ZeRO 1 and 2, in another at 3."""
    sharded = (_STATES[stage], _FP32[stage], _SLICES)
    groups = shard[_STATES[stage]]["param_groups"]
    step = shard[_STATES[stage]]["state"][0]["step"].clone()
    return {
        **{name: value for name, value in shard.items() if name not in sharded},
        "param_groups": groups,
        _OPTIMIZER: {"state": {0: {"step": step}}, "param_groups": groups},
    }


def _load(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _rank_of(path: Path) -> int:
    found = re.search(r"zero_pp_rank_(\d+)_", path.name)
    return int(found[1]) if found else 0

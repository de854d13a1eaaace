"""What the engine promises on a machine with GPUs, as far as a machine without GPUs can test it."""

import deepspeed
import pytest
import torch

from dnachunker.pretrain.engine.deepspeed_engine import start_process_group
from dnachunker.pretrain.engine.ranks import Rank


def test_a_rank_selects_its_gpu_before_it_joins_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", device)))
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **options: calls.append(options["dist_backend"]))
    gpu = torch.device("cuda", 1)
    start_process_group(Rank(rank=1, world_size=2, local_rank=1, device=gpu))
    assert calls == [("set_device", gpu), "nccl"]
    calls.clear()
    start_process_group(Rank(rank=1, world_size=2, local_rank=1, device=torch.device("cpu")))
    assert calls == ["gloo"]

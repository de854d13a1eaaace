"""Weights of a checkpoint, read on a machine unlike the machine that wrote them."""

from pathlib import Path

import pytest
import torch

from dnachunker.pretrain.checkpoints.loading import read_weights
from dnachunker.pretrain.checkpoints.state import STATE, RunState
from dnachunker.pretrain.engine.deepspeed_engine import ENGINE_STATE


def test_weights_that_a_gpu_wrote_are_read_on_a_machine_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so it reads such a file anyway")
    state = RunState(
        steps_done=1, samples_seen=1, updates=1, world_size=1, zero_stage=0, precision="fp32", device="cuda",
        skipped_batches=[], guards={}, corpus_fingerprint="", identity={}, versions={},
    )  # fmt: skip
    (tmp_path / STATE).write_text(state.model_dump_json())
    (tmp_path / ENGINE_STATE).mkdir()
    weights = torch.arange(6, dtype=torch.bfloat16)
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"module": {"w": weights}}, tmp_path / ENGINE_STATE / "mp_rank_00_model_states.pt")
    assert torch.equal(read_weights(tmp_path)["w"], weights.float())

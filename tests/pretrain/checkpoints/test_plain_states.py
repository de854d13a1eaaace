"""Files of a checkpoint: they hold no pickled class, give back every bit, and a file that could run code is refused."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.engine.plain_states import ENGINE_STATE, plain_loads_only, require_plain

_ROUND_TRIPS = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from dnachunker.pretrain.checkpoints.resharding import write_universal
from dnachunker.pretrain.config import EngineSettings
from dnachunker.pretrain.engine.deepspeed_engine import WEIGHTS, TrainingEngine, start_process_group
from dnachunker.pretrain.engine.plain_states import host_copy, write_plain
from dnachunker.pretrain.engine.ranks import Rank

rank = Rank.from_environment()
start_process_group(rank)


def new_engine(settings, universal=False):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 1, bias=False))
    model.to(torch.bfloat16 if settings.precision == "bf16" else torch.float32)
    decay, others = [model[0].weight], [model[0].bias, model[1].weight]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    return TrainingEngine(
        model, optimizer, settings, rank, global_batch=1, accumulation=1, clip_grad_norm=1.0, load_universal=universal
    )


def train(engine, precision):
    for step in range(3):
        window = torch.linspace(step, 1, 5).reshape(1, 5)
        engine.backward(engine.forward(input=window.bfloat16() if precision == "bf16" else window).sum())
        engine.step(0.01)


for stage, precision, offload in (
    (0, "fp32", False), (0, "bf16", False), (1, "fp32", False), (1, "bf16", True), (2, "bf16-autocast", False),
    (3, "fp32", True), (3, "bf16", False),
):
    name, settings = f"{stage}-{precision}-{offload}", EngineSettings(
        zero_stage=stage, precision=precision, offload_optimizer=offload
    )
    folder = Path(sys.argv[1], name)
    engine = new_engine(settings)
    train(engine, precision)
    saved = engine.weights()
    states = {path: host_copy(state) for path, state in engine.states(folder).items()}
    train(engine, precision)
    for path, state in states.items():  # a copy stays what it was
        write_plain(state, path)
    save_file(saved, folder / WEIGHTS)
    wanted = engine.weights()
    engine.close()
    for universal in (False, True)[: 1 + bool(stage)]:
        again = new_engine(settings, universal)
        if universal:
            write_universal(folder, folder / "universal", rank)
        again.load(folder / "universal" if universal else folder)
        for key, weight in again.weights().items():
            assert torch.equal(weight, saved[key]), (name, universal, key, "loaded")
        train(again, precision)
        for key, weight in again.weights().items():
            assert torch.equal(weight, wanted[key]), (name, universal, key, "continued")
        assert again.updates == 6
        again.close()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of every ZeRO stage, precision and offload; each has continued its run to the bit."""
    folder = tmp_path_factory.mktemp("saved")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", _ROUND_TRIPS, str(folder)]
    done = subprocess.run(command, env={**os.environ, **place}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_file_of_any_zero_stage_precision_or_offload_holds_code(saved: Path) -> None:
    for variant in saved.iterdir():
        files = [path for path in variant.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".pt", ".safetensors"}
        for path in variant.rglob("*.pt"):
            torch.load(path, weights_only=True)
        require_plain(variant)


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def test_a_file_that_could_run_code_is_refused_in_one_line_and_runs_none(saved: Path, tmp_path: Path) -> None:
    canary, folder = tmp_path / "canary", tmp_path / ENGINE_STATE
    folder.mkdir()
    hostile = folder / "mp_rank_00_model_states.pt"
    torch.save({"param_shapes": [], "module": _Bomb(canary)}, hostile)
    plain_pickle = pickle.dumps(_Bomb(canary))
    for content in (hostile.read_bytes(), plain_pickle, b"", b"PK\x03\x04"):
        hostile.write_bytes(content)
        with pytest.raises(BadInput, match="mp_rank_00_model_states.pt: refused") as refusal:
            require_plain(tmp_path)
        assert "\n" not in str(refusal.value)
        with plain_loads_only(), pytest.raises(Exception):  # noqa: B017, PT011 - any refusal will do
            torch.load(hostile, weights_only=False)
    assert not canary.exists()
    pickle.loads(plain_pickle)
    assert canary.exists(), "the canary would have told"

"""What the engine promises, also on GPUs as far as a machine without GPUs can test it."""

import os
import socket
import subprocess
import sys

import deepspeed
import pytest
import torch

from dnachunker.pretrain.engine.deepspeed_engine import start_process_group
from dnachunker.pretrain.engine.ranks import Rank


def test_a_rank_selects_its_gpu_before_it_joins_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set_device", device)))
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **options: calls.append(options["dist_backend"]))
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, **options: calls.append((backend, options["device_id"])),
    )
    gpu = torch.device("cuda", 1)
    start_process_group(Rank(rank=1, world_size=2, local_rank=1, device=gpu))
    assert calls == [("set_device", gpu), ("nccl", gpu), "nccl"], "the group is bound to the rank's GPU"
    calls.clear()
    start_process_group(Rank(rank=1, world_size=2, local_rank=1, device=torch.device("cpu")))
    assert calls == ["gloo"]


_ONE_UPDATE = """
import sys
import torch
from dnachunker.pretrain.config import EngineSettings
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine, start_process_group
from dnachunker.pretrain.engine.ranks import Rank

rank = Rank.from_environment()
start_process_group(rank)
torch.manual_seed(0)
model = torch.nn.Linear(4, 1, bias=False)
stage, precision = int(sys.argv[1]), sys.argv[2]
if precision == "bf16":
    model.bfloat16()
before = model.weight.detach().clone()
settings = EngineSettings(zero_stage=stage, precision=precision)
optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.5)
engine = TrainingEngine(model, optimizer, settings, rank, global_batch=1, accumulation=1, clip_grad_norm=10.0)
assert torch.equal(model.weight, before), "a new engine has changed the weights"
for _ in range(2):
    output = engine.forward(input=torch.ones(1, 4, dtype=before.dtype))
    assert output.dtype == torch.bfloat16, "the product was not computed in bf16"
    engine.backward(output.sum())
    engine.step(2**-4)
# each step decays by the rate times 0.5, then moves every weight by the rate
wanted = before.float()
for _ in range(2):
    wanted = wanted * (1 - 2**-5) - 2**-4
rounding = 2**-7 if precision == "bf16" else 1e-6
torch.testing.assert_close(model.weight.detach().float(), wanted, rtol=0, atol=rounding)
assert model.weight.dtype == before.dtype
"""


_A_RATE_FOR_EACH_GROUP = """
import torch
from torch import nn
from dnachunker.pretrain.checkpoints.saving import HostMemory
from dnachunker.pretrain.config import EngineSettings
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine, start_process_group
from dnachunker.pretrain.engine.optimizer import build_adamw
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.settings.learning import OptimizerSettings


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        stage = nn.ModuleList([nn.Linear(1, 1)])
        parts = {"encoders": stage, "trunk": nn.Linear(1, 1)}
        self.dnachunker = nn.ModuleDict({"hierarchy": nn.ModuleDict(parts)})
        for parameter in self.parameters():
            nn.init.ones_(parameter)

    def forward(self, x):
        parts = self.dnachunker["hierarchy"]
        return torch.cat((parts["encoders"][0](x), parts["trunk"](x)), dim=1)


def engine_of(stage):
    net = Net()
    biases = {name for name, _ in net.named_parameters() if name.endswith("bias")}
    adamw = build_adamw(net, biases, OptimizerSettings(weight_decay=0.5), (4.0, 1.0))
    return TrainingEngine(net, adamw, EngineSettings(zero_stage=stage), rank, global_batch=1, accumulation=1,
                          clip_grad_norm=10.0)


def values(engine):
    with torch.no_grad():
        none, one = (engine.forward(x=torch.full((1, 1), x))[0] for x in (0.0, 1.0))
    return torch.stack((one - none, none))  # weights and biases, of stage and trunk


def fill(name, kind, start, into):
    into.copy_((weights[name] if kind == "weight" else moments[f"{kind}/{start}/{name}"]).flatten())


rank = Rank.from_environment()
start_process_group(rank)
for stage in range(4):
    wanted = torch.ones(2, 2)
    for step in range(3):
        if step == 0:
            engine = engine_of(stage)
        if step == 2:  # as a resumed run does
            weights = HostMemory().copy(engine.weights())
            moments = HostMemory().copy(engine.moments().items())
            engine.close()
            engine = engine_of(stage)
            engine.load(fill, steps_done=2, updates=2)
        engine.backward(engine.forward(x=torch.ones(1, 1)).sum())
        engine.step(2**-6)
        rate = 2**-6 * torch.tensor([4.0, 1.0])
        # AdamW decays weights by the rate times 0.5, then moves all by the rate, since the gradient stays the same
        wanted = wanted * torch.stack((1 - rate / 2, torch.ones(2))) - rate
        torch.testing.assert_close(values(engine), wanted, rtol=0, atol=1e-5, msg=lambda m: f"stage {stage}: {m}")
    engine.close()
"""


_A_NETWORK_UNDER_AUTOCAST = """
import torch
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.config import EngineSettings
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine, start_process_group
from dnachunker.pretrain.engine.ranks import Rank

rank = Rank.from_environment()
start_process_group(rank)
ids = torch.randint(7, 11, (2, 40), generator=torch.Generator().manual_seed(0))
network = DNAChunkerConfig(width=16, num_heads=2, trunk_layers=3, encoder_layers=(1, 1), decoder_layers=(1, 1))
found = []
for stage, checkpointing in ((0, False), (1, False), (3, False), (3, True)):
    torch.manual_seed(0)
    model = DNAChunkerForMaskedLM(network).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    settings = EngineSettings(zero_stage=stage, precision="bf16-autocast")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    engine = TrainingEngine(model, optimizer, settings, rank, global_batch=2, accumulation=1, clip_grad_norm=10.0)
    losses = []
    for _ in range(3):
        loss = engine.forward(input_ids=ids, labels=ids).loss
        engine.backward(loss)
        losses.append(float(loss))
        engine.step(2**-6)
    assert losses[2] < losses[0]
    found.append(losses)
    engine.close()
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(found[0]), rtol=1e-5, atol=0)
"""


def run_as_rank(script: str, *arguments: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env={**os.environ, **place}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("stage", "precision"), [(0, "bf16"), (1, "bf16"), (0, "bf16-autocast"), (2, "bf16-autocast")])
def test_the_first_updates_in_bf16_are_those_of_adamw(stage: int, precision: str) -> None:
    run_as_rank(_ONE_UPDATE, str(stage), precision)


def test_groups_keep_their_own_rates_and_decays_at_every_zero_stage_and_after_a_resume() -> None:
    run_as_rank(_A_RATE_FOR_EACH_GROUP)


@pytest.mark.slow
def test_a_network_under_autocast_learns_the_same_at_every_zero_stage() -> None:
    run_as_rank(_A_NETWORK_UNDER_AUTOCAST)

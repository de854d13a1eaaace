"""A checkpoint continues its run at any ZeRO stage and number of ranks, and a file of another kind is refused."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.checkpoints.stored_parts import StoredParts, moments_file

_CONTINUED = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from dnachunker.pretrain.checkpoints.saving import HostMemory
from dnachunker.pretrain.checkpoints.stored_parts import WEIGHTS, StoredParts, moments_file
from dnachunker.pretrain.config import EngineSettings
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine, start_process_group
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.engine.weight_average import kept

rank = Rank.from_environment()
start_process_group(rank)
SHARE = 0.2
LAYOUTS = [(0, False), *((stage, offload) for stage in (1, 2, 3) for offload in (False, True))]


def new_engine(stage, offload, precision):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 1, bias=False))
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    decay, others = [model[0].weight], [model[0].bias, model[1].weight]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    settings = EngineSettings(zero_stage=stage, precision=precision, offload_optimizer=offload)
    return TrainingEngine(
        model, torch.optim.AdamW(groups, lr=1.0), settings, rank, global_batch=rank.world_size, accumulation=1,
        clip_grad_norm=1.0, average=SHARE,
    )


def window_of(step, precision):
    window = torch.linspace(step, 1, 5).reshape(1, 5)
    return window.bfloat16() if precision == "bf16" else window


def weights_of(engine):
    return {name: weight.float().clone() for name, weight in engine.weights()}


def train(engine, precision, average):  # three steps, after each of which `average` takes in the weights
    for step in range(3):
        engine.backward(engine.forward(input=window_of(step, precision)).sum() / rank.world_size)  # the same on all
        engine.step(0.01)
        for name, weight in weights_of(engine).items():
            average[name] = weight.lerp(average.get(name, weight), kept(SHARE, engine.updates))


def check_average(engine, precision, average, what):
    before = weights_of(engine)
    with torch.no_grad():
        own = engine.network(window_of(3, precision))
        with engine.averaged(), engine.averaged():
            with engine.averaged():
                pass
            found, output = weights_of(engine), engine.network(window_of(3, precision))
        after, again = weights_of(engine), engine.network(window_of(3, precision))
    assert torch.equal(own, again), what
    if rank.is_main:
        for name, weight in average.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6, msg=lambda m: f"{what} {name}: {m}")
            assert torch.equal(before[name], after[name]), (what, name)
        assert not torch.equal(found["0.weight"], before["0.weight"]), what
        rounded = {name: weight.to(own.dtype) for name, weight in found.items()}
        hidden = torch.nn.functional.linear(window_of(3, precision), rounded["0.weight"], rounded["0.bias"])
        wanted = torch.nn.functional.linear(hidden, rounded["1.weight"])
        torch.testing.assert_close(output, wanted, msg=lambda m: f"{what}: {m}")


def place_of(precision, layout):
    return folder / f"{precision}-{layout[0]}-{layout[1]}"


folder, phases, precisions = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
for precision in precisions:
    if "save" in phases:
        for layout in LAYOUTS:
            place = place_of(precision, layout)
            (place / "optimizer").mkdir(parents=True, exist_ok=True)
            engine = new_engine(*layout, precision)
            average = {}
            train(engine, precision, average)
            weights = HostMemory().copy(engine.weights())
            moments = HostMemory().copy(engine.moments().items())
            averages = dict(average)
            train(engine, precision, average)
            wanted = HostMemory().copy(engine.weights())
            if rank.is_main:
                save_file(weights, place / WEIGHTS)
                save_file(wanted, place / "continued")
                save_file(averages, place / "averages")
            save_file(moments, place / moments_file(rank.rank))
            rank.barrier()
            engine.close()
    for before, after in zip(LAYOUTS, LAYOUTS[2:] + LAYOUTS[:2]) if "load" in phases else ():
        place = place_of(precision, before)
        engine = new_engine(*after, precision)
        engine.load(StoredParts(place).fill, steps_done=4, updates=3)
        saved, continued = load_file(place / WEIGHTS), load_file(place / "continued")
        for key, weight in engine.weights():
            assert torch.equal(weight, saved[key]), (precision, before, after, key, "loaded")
        average = load_file(place / "averages")
        check_average(engine, precision, average, (precision, before, after, "loaded"))
        train(engine, precision, average)
        check_average(engine, precision, average, (precision, before, after, "continued"))
        for key, weight in engine.weights():
            what = str((precision, before, after, key, "continued"))
            torch.testing.assert_close(weight, continued[key], rtol=0, atol=1e-6, msg=lambda m: f"{what}: {m}")
        assert engine.updates == 6
        engine.close()
"""


def launch(script: str, world_size: int, *arguments: str) -> None:
    """Run a script as each of the ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", script, *arguments]
    ranks = [
        subprocess.Popen(
            command, env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    for rank in ranks:
        said = rank.communicate()[1]
        assert rank.returncode == 0, said


def test_a_run_continues_at_another_zero_stage_in_each_precision_with_and_without_offload(tmp_path: Path) -> None:
    launch(_CONTINUED, 1, str(tmp_path), "save load", "fp32 bf16")


@pytest.mark.slow
def test_a_run_of_two_ranks_continues_on_four_and_on_one_at_another_zero_stage(tmp_path: Path) -> None:
    launch(_CONTINUED, 2, str(tmp_path), "save", "fp32 bf16")
    launch(_CONTINUED, 4, str(tmp_path), "load", "bf16")
    launch(_CONTINUED, 1, str(tmp_path), "load", "fp32")


def stored(folder: Path) -> Path:
    """A checkpoint of one parameter of six values, whose moments lie in the files of two ranks."""
    (folder / "optimizer").mkdir()
    values = torch.arange(6.0)
    save_file({"a": values.reshape(2, 3)}, folder / "weights.safetensors")
    for rank, (begin, end) in enumerate(((0, 4), (4, 6))):
        save_file({f"exp_avg/{begin}/a": values[begin:end]}, folder / moments_file(rank))
    return folder


def test_any_stretch_is_put_together_from_the_files_of_all_ranks(tmp_path: Path) -> None:
    parts = StoredParts(stored(tmp_path))
    for kind in ("weight", "exp_avg"):
        for begin in range(6):
            for end in range(begin + 1, 7):
                into = torch.full((end - begin,), -1.0)
                parts.fill("a", kind, begin, into)
                assert into.tolist() == list(range(begin, end)), (kind, begin, end)


def test_a_checkpoint_that_lacks_values_is_refused(tmp_path: Path) -> None:
    (stored(tmp_path) / moments_file(1)).unlink()
    with pytest.raises(BadInput, match=r"holds 1 of 2 values of exp_avg of a; remove this checkpoint folder"):
        StoredParts(tmp_path).fill("a", "exp_avg", 3, torch.empty(2))


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def test_a_file_that_could_run_code_is_refused_in_one_line_and_runs_none(tmp_path: Path) -> None:
    canary, hostile = tmp_path / "canary", stored(tmp_path) / moments_file(1)
    torch.save({"module": _Bomb(canary)}, hostile)
    plain_pickle = pickle.dumps(_Bomb(canary))
    for content in (hostile.read_bytes(), plain_pickle, b"", b"PK\x03\x04"):
        hostile.write_bytes(content)
        with pytest.raises(BadInput, match=r"rank-00001.safetensors: refused") as refusal:
            StoredParts(tmp_path)
        assert "\n" not in str(refusal.value)
    assert not canary.exists()
    pickle.loads(plain_pickle)
    assert canary.exists(), "the canary would have told"

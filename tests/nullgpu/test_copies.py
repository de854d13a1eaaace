"""Windows reach the GPU, and states leave it for a checkpoint, through pinned memory and without a wait for each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nullgpu
CODE = """
import sys, torch
from loader_ledger import curriculum
from on_host import OnHost
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.pretrain.data.masking import MaskingRates
from dnachunker.pretrain.data.objective import MaskedBases
from dnachunker.pretrain.data.training_data import TrainingData
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.engine.ranks import Rank

class Copies(OnHost):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        there = torch.device((kwargs or {}).get("device") or "cpu").type == "cuda"
        if func.name() == "aten::_to_copy" and there and not args[0].is_cuda:
            copies.append((tuple(args[0].shape), args[0].is_pinned(), kwargs.get("non_blocking")))
        return super().__torch_dispatch__(func, types, args, kwargs)

corpus, copies = Corpus.open(sys.argv[1]), []
with Copies():
    for order in (None, lambda batch: torch.arange(len(batch.input_ids), device="cuda:0")):
        data = TrainingData(
            curriculum(corpus), WindowReader(corpus, "train", threads=1), MaskedBases(MaskingRates()),
            Rank(0, 1, 0, torch.device("cuda:0")), accumulation=2, first_step=0, end_step=2, workers=0, order=order,
        )
        assert [batch.input_ids.device.index for batch in data.draw().micro_batches] == [0, 0]
        data.close()
assert len(copies) == 5, copies
assert all(pinned and free for _, pinned, free in copies), copies
"""

SAVES = """
import torch
from on_host import OnHost
from dnachunker.pretrain.checkpoints.saving import HostMemory

class Copies(OnHost):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() == "aten::copy_" and args[1].is_cuda and not args[0].is_cuda:
            copies.append((args[0].is_pinned(), args[2]))
        return super().__torch_dispatch__(func, types, args, kwargs)

memory, copies = HostMemory(), []
with Copies():
    moments = {name: torch.arange(5.0, device="cuda:0") for name in "abc"}
    for step in range(2):
        kept = memory.copy(moments.items())
        assert kept["a"].tolist() == [0, 1, 2, 3, 4]
        assert not kept["a"].is_cuda
assert copies == [(True, True)] * 6, copies
"""


def test_windows_and_keys_are_copied_out_of_pinned_memory(null_gpus: dict[str, str], sample_corpus: Path) -> None:
    run_on_null_gpus(CODE, null_gpus, str(sample_corpus))


def test_states_are_copied_into_pinned_memory_for_a_checkpoint(null_gpus: dict[str, str]) -> None:
    run_on_null_gpus(SAVES, null_gpus)


def run_on_null_gpus(code: str, null_gpus: dict[str, str], *arguments: str) -> None:
    """Run a script in a process that has null GPUs."""
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    path = os.pathsep.join(map(str, (root, here, here.parent / "support")))
    environment = {**os.environ, **null_gpus, "PYTHONPATH": path, "DS_ACCELERATOR": "cuda"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

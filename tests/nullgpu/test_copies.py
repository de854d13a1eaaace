"""Training windows reach the GPU without a wait: out of pinned memory, by copies that do not block."""

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


def test_windows_and_keys_are_copied_out_of_pinned_memory(null_gpus: dict[str, str], sample_corpus: Path) -> None:
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    path = os.pathsep.join(map(str, (root, here, here.parent / "support")))
    environment = {**os.environ, **null_gpus, "PYTHONPATH": path, "DS_ACCELERATOR": "cuda"}
    command = [sys.executable, "-c", CODE, str(sample_corpus)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

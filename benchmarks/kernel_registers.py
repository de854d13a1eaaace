"""Registers and spills of every Triton kernel of a training step, as `ptxas` reports them. No GPU is needed.

python benchmarks/kernel_registers.py [PRESET ...] [--dtype bfloat16 autocast] [--arch 80 90] [--kernel emit] [--json]

A training step of the preset's network runs on fake tensors, which have shapes and no values. Its launches say what
Triton has to compile: dtypes, constants, arguments that 16 divides, warps. Triton compiles that for each architecture
with the `ptxas` that it ships.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ["TRITON_INTERPRET"] = "0"  # read when triton is imported: the interpreter compiles nothing
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from dnachunker.foundations.typed_config import load_config
from dnachunker.model import attention, kernels
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.network import network_config

PRESETS = ("dnachunker-172m", "50m", "small", "tiny")
DTYPES = ("bfloat16", "float32", "autocast")
ARCHITECTURES = (80, 89, 90, 100, 120)  # those of A100, L40S, H100, B200, RTX PRO 6000
REPORTED = {
    "registers": r"Used (\d+) registers",
    "stack": r"(\d+) bytes stack frame",  # what does not fit into registers
    "spill_stores": r"(\d+) bytes spill stores",
    "spill_loads": r"(\d+) bytes spill loads",
}


class Pointer:
    """What Triton asks of a tensor: its dtype and address. PyTorch aligns the storage of CUDA tensors to 512 bytes."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype = tensor.dtype
        self._offset = tensor.storage_offset() * tensor.element_size()

    def data_ptr(self) -> int:
        return 512 + self._offset


class Launch(NamedTuple):
    """A kernel and the arguments of a launch, tensors as `Pointer`."""

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Driver:
    """Stands in for the driver of a GPU of compute capability `architecture` / 10."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        return self.architecture  # Triton keeps what it compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)


def launches(preset: str, dtype: str) -> list[Launch]:
    """The launches of a training step, forward and backward, of the preset's network in `dtype`, or under autocast."""
    found: list[Launch] = []

    def record(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        pointers = (Pointer(x) if isinstance(x, Tensor) else x for x in arguments)
        found.append(Launch(kernel, tuple(pointers), options))

    config = load_config(PretrainConfig, preset, ["run=none", "data.corpus=none"], kind="pretrain")
    network = network_config(config.model, config.tokenization, trunk_layers=1, scan_backend="triton")
    model = DNAChunkerForMaskedLM(network).to(getattr(torch, "float32" if dtype == "autocast" else dtype))
    with (
        mock.patch.object(JITFunction, "run", record),
        mock.patch.object(kernels, "triton_works", return_value=True),
        mock.patch.object(attention, "attention_backend", return_value="torch_varlen"),  # SDPA asks for lengths
        mock.patch.object(torch.cuda, "device_of", contextlib.nullcontext),
        FakeTensorMode(allow_non_fake_inputs=True),  # of the CPU: a build without CUDA differentiates no fake CUDA ones
    ):
        ids = torch.zeros(8, config.data.seq_len, dtype=torch.int64)  # the spans of the scan depend on the number
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
            loss = model(ids, labels=ids, chunk_capacity=(0.6, 0.4)).loss
        loss.backward()
    return found


def compiled(launch: Launch, architecture: int) -> dict[str, Any] | None:
    """What `ptxas` reports of a launch's kernel; None if Triton had compiled the same for an earlier launch."""
    driver.set_active(Driver(architecture))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        done = launch.kernel.run(*launch.arguments, grid=(1,), warmup=True, **launch.options)
    if not said.getvalue():
        return None
    counts = {name: sum(map(int, re.findall(pattern, said.getvalue()))) for name, pattern in REPORTED.items()}
    return {"arch": architecture, "warps": done.metadata.num_warps, **counts}


def measured(
    presets: Sequence[str], dtypes: Sequence[str], architectures: Sequence[int], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A row for each kernel that Triton compiles, under the first dtype and preset that need it. Empty `names`: all."""
    with tempfile.TemporaryDirectory() as cache, knobs.cache.scope(), knobs.nvidia.scope():
        knobs.cache.dir, knobs.nvidia.dump_ptxas_log = cache, True  # `ptxas` runs only for what no cache holds
        for dtype in dtypes:
            for preset in presets:
                for launch in launches(preset, dtype):
                    if names and launch.kernel.__name__ not in names:
                        continue
                    for architecture in architectures:
                        if row := compiled(launch, architecture):
                            yield {"kernel": launch.kernel.__name__, "dtype": dtype, "preset": preset, **row}


def table(rows: Sequence[dict[str, Any]], architectures: Sequence[int]) -> str:
    """Registers of a thread for each kernel and architecture, and bytes in its stack frame, in Markdown."""
    cells: dict[tuple[str, str, int], dict[int, tuple[int, int]]] = {}
    for row in rows:
        by_architecture = cells.setdefault((row["kernel"], row["dtype"], row["warps"]), {})
        found = (row["stack"], row["registers"])  # of the presets, the one that needs most
        by_architecture[row["arch"]] = max(by_architecture.get(row["arch"], found), found)
    lines = [["kernel", "dtype", "warps", *(f"sm_{a}" for a in architectures)], ["---"] * (3 + len(architectures))]
    for key, by_architecture in sorted(cells.items()):
        needed = [by_architecture[a] for a in architectures]
        lines.append(
            [*map(str, key), *(f"{count} + {stack} bytes" if stack else str(count) for stack, count in needed)]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("presets", nargs="*", default=PRESETS, metavar="PRESET", help=" ".join(PRESETS))
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--arch", nargs="+", type=int, default=ARCHITECTURES, help="compute capabilities times 10")
    parser.add_argument("--kernel", nargs="+", default=(), help="only these kernels")
    parser.add_argument("--json", action="store_true", help="a JSON object for each kernel instead of a table")
    arguments = parser.parse_args()
    rows = measured(arguments.presets, arguments.dtype, arguments.arch, arguments.kernel)
    if arguments.json:
        for row in rows:
            print(json.dumps(row), flush=True)
    else:
        print(f"Triton {triton.__version__}\n\n{table(list(rows), arguments.arch)}")


if __name__ == "__main__":
    main()

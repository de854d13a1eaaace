"""Fixtures of null GPUs: the stand-in runtime, and servers that start training ranks with and without it."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # build_runtime and the like import each other by these names, in other processes too

from build_runtime import build, lacking  # noqa: E402
from matrix import Matrix, Table  # noqa: E402
from training_ranks import Ranks  # noqa: E402

MOST_RANKS = 4
_MEMORY = 8 << 30  # bytes: a rank takes about one GiB, the two servers as much

# As small as the model goes: the host computes operation by operation, in Python.
TINY = (
    "steps=4", "model.width=16", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4", "data.seq_len=24",
    "data.global_batch=4", "data.streams=8", "evaluation.windows=2", "evaluation.every=4", "evaluation.split=valid",
    "evaluation.baseline_bases=20000", "checkpoint.every=4", "tracking.enabled=false",
    "engine.scan_backend=reference", "guards.hang_seconds=120",
)  # fmt: skip


@pytest.fixture(scope="session")
def null_gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables under which a process has four null GPUs."""
    reason = lacking()
    if not reason and psutil.virtual_memory().available < _MEMORY:
        reason = f"less than {_MEMORY >> 30} GiB of memory are free"
    if not reason and importlib.util.find_spec("triton") is None:
        reason = "triton, which has CUDA's headers, is not installed"
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("runtime")
    return {
        **build(folder), "NULLGPU_COUNT": str(MOST_RANKS), "NULLGPU_PATIENCE": "60", "OMP_NUM_THREADS": "1",
        "CUDA_HOME": str(folder / "none"),  # as on most GPU machines, there is no CUDA toolkit
    }  # fmt: skip


@pytest.fixture(scope="session")
def gpus(null_gpus: dict[str, str], sample_corpus: Path) -> Iterator[Ranks]:
    """Starts training ranks on null GPUs."""
    server = Ranks(sample_corpus, TINY, HERE / "gpu_rank_server.py", null_gpus)
    yield server
    server.close()


@pytest.fixture(scope="session")
def cpus(null_gpus: dict[str, str], sample_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Starts training ranks, and exports, on a machine without any GPU; with the same torch."""
    modules = tmp_path_factory.mktemp("modules")
    server = Ranks(sample_corpus, TINY, variables={"HF_MODULES_CACHE": str(modules)})
    yield server
    server.close()


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """The table that is printed after the last test."""
    found = Table()
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *found.lines(), sep="\n")


@pytest.fixture(scope="session")
def matrix(gpus: Ranks, cpus: Ranks, table: Table, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """Starts runs on null GPUs and on CPUs, and compares them."""
    return Matrix(gpus, cpus, table, tmp_path_factory.mktemp("references"))

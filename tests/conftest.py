"""Fixtures shared by all tests: the embedded sample as a corpus, and real genomes where they are at hand."""

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from unittest.mock import patch

import pytest

os.environ["DS_ACCELERATOR"] = "cpu"  # the promises tested here are stated for CPU ranks
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait starve the other processes
os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels are tested without a GPU

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Each test leaves the environment as it was, and so do the fixtures of a module that it starts: the command,
    called in this process, sets variables such as PYTHONSAFEPATH, which the children of a later test must not find.
    So what a fixture of a module sets in the environment lasts for the first of its tests only."""
    with patch.dict(os.environ):
        return (yield)


@pytest.fixture(scope="session")
def dnachunker() -> Command:
    """Runs the `dnachunker` command as a user does and returns the finished process."""

    def run(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "dnachunker", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=900, **options)  # type: ignore[call-overload]

    return run


@pytest.fixture(scope="session")
def sample_corpus(tmp_path_factory: pytest.TempPathFactory, dnachunker: Command) -> Path:
    """The embedded sample, sharded by the command."""
    corpus = tmp_path_factory.mktemp("sample") / "corpus"
    done = dnachunker("shard", "--config", "sample", "--output", corpus)
    assert done.returncode == 0, done.stderr
    return corpus


@pytest.fixture(scope="session")
def real_genomes() -> Path:
    """Folder with hg38.chr2_1-2333275.fa.gz and sacCer3.fa.gz."""
    root = os.environ.get("DNACHUNKER_TEST_DATA")
    if not root:
        pytest.skip("DNACHUNKER_TEST_DATA is not set: it names a folder with genomes/ and tasks/")
    folder = Path(root) / "genomes"
    if not folder.is_dir():
        pytest.skip(f"DNACHUNKER_TEST_DATA={root} has no genomes/")
    return folder

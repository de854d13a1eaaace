"""Builds by several workers, threads or Ray tasks, write the same bytes after any kill and after a full disk."""

import contextlib
import hashlib
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pytest
from ray_nodes import two_ray_nodes

Found = TypeVar("Found")

BASES = 6_000_000
CONFIG = """
sources: {g: {path: PATH}}
split: {kind: hash, tile: 65536, valid: 0.1}
block_bases: 16384
shard_bases: 262144
compression_level: 12
"""  # many small shards, compressed slowly, so that there is time for a kill
SLOWER = CONFIG.replace("level: 12", "level: 19")  # leaves time to find Ray's workers too


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    letters = np.frombuffer(b"ACGTacgtN", np.uint8)[np.random.default_rng(1).integers(0, 9, (BASES // 80, 80))]
    with open(folder / "g.fa", "wb") as handle:
        handle.write(b">chr1\n")
        handle.write(np.pad(letters, ((0, 0), (0, 1)), constant_values=ord("\n")).tobytes())
    (folder / "config.yaml").write_text(CONFIG.replace("PATH", str(folder / "g.fa")))
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def expected(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("expected") / "corpus"
    assert shard(config, output, 0).wait(120) == 0
    return hashes(output)


@pytest.fixture(scope="module")
def slower(config: Path) -> Path:
    path = config.with_name("slower.yaml")
    path.write_text(SLOWER.replace("PATH", str(config.with_name("g.fa"))))
    return path


@pytest.fixture(scope="module")
def expected_of_slower(slower: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("expected") / "corpus"
    assert shard(slower, output, 0).wait(240) == 0
    return hashes(output)


def shard(config: Path, output: Path, workers: int, *options: str, limit: int | None = None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "dnachunker", "shard", "--config", str(config), "--output", str(output)]
    return subprocess.Popen(
        [*command, "--workers", str(workers), *(options or ("--ray", "none"))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
    )


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def wait_for(look: Callable[[], Found], process: "subprocess.Popen[str]", seconds: float = 300) -> Found:
    """The first true result of `look`, called again and again while the build runs."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert process.poll() is None, "the build is over"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return seen


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # the process has ended or is ending
        return ""


def ray_workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that run the tasks of a build with a private Ray."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "ray::attempt" in command_of(child)]


def killed_one(processes: list[psutil.Process], rng: random.Random) -> bool:
    """Kill one of `processes`; returns whether one was still running."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in rng.sample(processes, min(1, len(processes))):
            process.kill()
            return True
    return False


def test_any_number_of_threads_writes_the_same_bytes(config: Path, expected: dict[str, str], tmp_path: Path) -> None:
    for workers in (1, 2, 4):
        assert shard(config, tmp_path / str(workers), workers).wait(120) == 0
        assert hashes(tmp_path / str(workers)) == expected


@pytest.mark.parametrize("already", [0, 3])
def test_a_killed_build_continues(already: int, config: Path, expected: dict[str, str], tmp_path: Path) -> None:
    manifests = tmp_path / ".corpus.building" / "manifests"
    process = shard(config, tmp_path / "corpus", 2)
    wait_for(lambda: manifests.is_dir() and len(list(manifests.glob("*.json"))) >= already, process)
    process.kill()
    process.wait()
    assert not (tmp_path / "corpus").exists()
    assert shard(config, tmp_path / "corpus", 2).wait(120) == 0
    assert hashes(tmp_path / "corpus") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_ray_workers_are_replaced(
    seed: int, slower: Path, expected_of_slower: dict[str, str], tmp_path: Path
) -> None:
    """Two kills, at random points of the first half of the writing; a task is tried four times."""
    rng = random.Random(seed)
    manifests = tmp_path / ".corpus.building" / "manifests"
    process = shard(slower, tmp_path / "corpus", 2, "--ray", "local")
    for already in sorted(rng.sample(range(12), 2)):
        wait_for(lambda: len(list(manifests.glob("*.json"))) >= already, process)  # noqa: B023
        wait_for(lambda: killed_one(ray_workers(process), rng), process)
        time.sleep(rng.random() / 2)
    assert process.wait(300) == 0, process.stderr and process.stderr.read()
    assert hashes(tmp_path / "corpus") == expected_of_slower


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_driver_takes_ray_along_and_its_build_continues(
    seed: int, slower: Path, expected_of_slower: dict[str, str], tmp_path: Path
) -> None:
    rng = random.Random(seed)
    manifests = tmp_path / ".corpus.building" / "manifests"
    already = rng.randrange(12)
    process = shard(slower, tmp_path / "corpus", 2, "--ray", "local")
    wait_for(lambda: ray_workers(process), process)
    wait_for(lambda: len(list(manifests.glob("*.json"))) >= already, process)
    time.sleep(rng.random() / 5)
    # Ray's agents live for another minute and search for their head process; they touch no corpus
    children = [c for c in psutil.Process(process.pid).children(recursive=True) if "Agent" not in command_of(c)]
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert not (tmp_path / "corpus").exists()
    again = shard(slower, tmp_path / "corpus", 2, "--ray", "local")
    assert again.wait(300) == 0, again.stderr and again.stderr.read()
    assert hashes(tmp_path / "corpus") == expected_of_slower
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_room_for_a_file_is_one_line_and_the_build_continues(
    workers: int, config: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    process = shard(config, tmp_path / "corpus", workers, limit=60_000)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the disk is full or a limit is reached" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not (tmp_path / "corpus").exists()
    assert shard(config, tmp_path / "corpus", workers).wait(120) == 0
    assert hashes(tmp_path / "corpus") == expected


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray cluster of two nodes with one core each, on this machine; yields its address."""
    with two_ray_nodes() as (nodes, _):
        yield nodes.address


@pytest.mark.slow
def test_two_ray_nodes_write_the_same_bytes(
    slower: Path, expected_of_slower: dict[str, str], tmp_path: Path, cluster: str
) -> None:
    process = shard(slower, tmp_path / "corpus", 2, "--ray", cluster)
    processes = {found: command_of(found) for found in psutil.process_iter()}
    nodes = [node for node, command in processes.items() if "raylet/raylet" in command and cluster in command]
    busy: set[int] = set()  # raylets with a worker that was seen running one of our tasks
    while process.poll() is None:
        busy |= {node.pid for node in nodes for child in node.children() if "ray::attempt" in command_of(child)}
        time.sleep(0.02)
    assert process.returncode == 0, process.stderr and process.stderr.read()
    assert hashes(tmp_path / "corpus") == expected_of_slower
    assert (len(nodes), len(busy)) == (2, 2)
    (tmp_path / "bad.fa").write_bytes(b">a\nACGT!\n")
    (tmp_path / "bad.yaml").write_text(CONFIG.replace("PATH", str(tmp_path / "bad.fa")))
    _, errors = shard(tmp_path / "bad.yaml", tmp_path / "wrong", 2, "--ray", cluster).communicate(timeout=300)
    assert "contig a: '!'" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "wrong").exists()


@pytest.mark.slow
def test_a_private_ray_writes_the_same_bytes(config: Path, expected: dict[str, str], tmp_path: Path) -> None:
    process = shard(config, tmp_path / "corpus", 2, "--ray", "local")
    assert process.wait(300) == 0
    assert hashes(tmp_path / "corpus") == expected

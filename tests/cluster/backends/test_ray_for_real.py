"""On a Ray cluster of two nodes, a corpus is built although one node dies, and Ray Train runs two ranks."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import two_ray_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# By default Ray needs half a minute to notice a dead node. With much shorter times than these, Ray would also count a
# node as dead that only starts slowly on a busy machine.
SOON = {
    "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5", "RAY_health_check_initial_delay_ms": "500",
}  # fmt: skip


@pytest.fixture
def two_nodes() -> Iterator[str]:
    """The address of a cluster."""
    with two_ray_nodes() as (cluster, _):
        yield cluster.address


@pytest.fixture
def mortal_node() -> Iterator[tuple[Any, Any]]:
    """A cluster that soon notices a dead node, and the node to kill."""
    with two_ray_nodes(**SOON) as both:
        yield both


def test_a_corpus_built_while_a_node_dies_has_the_same_bytes(
    mortal_node: tuple[Any, Any], tmp_path: Path, real_genomes: Path
) -> None:
    cluster, mortal = mortal_node
    config = tmp_path / "yeast.yaml"
    config.write_text(f"sources: {{yeast: {{path: {real_genomes / 'sacCer3.fa.gz'}, species: Saccharomyces}}}}\n")
    keys = ["block_bases=16384", "shard_bases=32768"]  # hundreds of tasks

    def build(name: str, ray: str) -> list[str]:
        argv = [sys.executable, "-m", "dnachunker", "shard", "--config", str(config)]
        return [*argv, "--output", str(tmp_path / name), "--ray", ray, *keys]

    done = subprocess.run(build("quiet", "none"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(build("corpus", cluster.address), stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while len([path for path in tmp_path.rglob("train-*") if "quiet" not in path.parts]) < 20:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    cluster.remove_node(mortal, allow_graceful=False)
    assert process.poll() is None, "the node must die in the middle of the build"
    assert process.wait(400) == 0, (tmp_path / "log").read_text()
    quiet = {path.name: path.read_bytes() for path in (tmp_path / "quiet").iterdir() if path.suffix != ".html"}
    built = {path.name: path.read_bytes() for path in (tmp_path / "corpus").iterdir() if path.suffix != ".html"}
    assert built == quiet


def test_ray_train_runs_the_ranks(two_nodes: str, tmp_path: Path, sample_corpus: Path) -> None:
    run = tmp_path / "run"
    small = [
        "steps=4", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "data.seq_len=128",
        "evaluation.windows=2", "tracking.enabled=false", f"cluster.ray.address={two_nodes}",
        "cluster.environment.OMP_NUM_THREADS='1'",
    ]  # fmt: skip
    argv = [
        sys.executable, "-m", "dnachunker", "launch", "--config", "tiny", "--corpus", str(sample_corpus),
        "--run", str(run), "--on", "ray", "--nodes", "2", "--gpus", "1",
    ]  # fmt: skip
    done = subprocess.run([*argv, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [e["steps_done"] for e in events if e["event"] == "step"] == [1, 2, 3, 4]
    assert events[0]["world_size"] == 2
    # bad input is not tried again
    done = subprocess.run([*argv, *small, "seed=1"], capture_output=True, text=True)
    assert done.returncode == 2


def test_a_stop_ends_the_ranks_and_does_not_look_like_success(
    two_nodes: str, tmp_path: Path, sample_corpus: Path
) -> None:
    run = tmp_path / "run"
    argv = [
        sys.executable, "-m", "dnachunker", "launch", "--config", "tiny", "--corpus", str(sample_corpus),
        "--run", str(run), "--on", "ray", "--nodes", "2", "--gpus", "1", "steps=100000", "model.width=32",
        "model.num_heads=2", "model.trunk_layers=1", "data.seq_len=128", "evaluation.windows=2",
        "tracking.enabled=false", f"cluster.ray.address={two_nodes}", "cluster.environment.OMP_NUM_THREADS='1'",
    ]  # fmt: skip
    events = run / "events.jsonl"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while not events.exists() or '"step"' not in events.read_text():
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130, (tmp_path / "log").read_text()
    told = (tmp_path / "log").read_text()
    assert "the same command continues" in told
    assert "starting again" not in told
    size = -1
    while size != events.stat().st_size:  # ranks that still run would go on writing
        assert time.monotonic() < deadline
        size = events.stat().st_size
        time.sleep(5)

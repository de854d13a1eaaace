"""`launch --on slurm` on a real SLURM: a job is submitted, reaches its time limit, is requeued, and completes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 40
SMALL = [
    f"steps={STEPS}", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4",
    "data.seq_len=128", "data.global_batch=4", "evaluation.windows=2", f"evaluation.every={STEPS}",
    "checkpoint.every=1000", "tracking.enabled=false",
]  # fmt: skip


def events(run: Path, kind: str) -> list[int]:
    """Steps done at each event of a kind, in the order of writing, with repetitions."""
    path = run / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]  # the last line may be incomplete
    return [event["steps_done"] for event in found if event["event"] == kind]


def test_a_job_outlives_its_time_limit_and_a_requeue(sample_corpus: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "slurm"
    folder.mkdir()
    with SlurmCluster(folder, 2) as slurm:

        def wait_until(met: Callable[[], object], seconds: float = 300) -> None:
            deadline = time.monotonic() + seconds
            while not met():
                logs = "".join(f"\n--- {p.name}\n{p.read_text()}" for p in sorted((run / "logs").glob("*.log")))
                assert time.monotonic() < deadline, f"{slurm.job(number)}{logs}"
                assert slurm.job(number).get("JobState") not in ("FAILED", "CANCELLED", "NODE_FAIL"), logs
                time.sleep(0.1)

        secret = "correct-horse-battery-staple"
        argv = [
            sys.executable, "-m", "dnachunker", "launch", "--config", "tiny", "--corpus", sample_corpus, "--run", run,
            "--on", "slurm", "--nodes", "2", "--gpus", "1", *SMALL, "cluster.slurm.gres=null",
            "cluster.environment.MASTER_ADDR='127.0.0.1'", "cluster.environment.OMP_NUM_THREADS='1'",
        ]  # fmt: skip
        environment = {**slurm.environment, "CANARY": secret}
        done = subprocess.run(list(map(str, argv)), env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        number = done.stderr.partition("submitted job ")[2].partition(";")[0]

        wait_until(lambda: len(events(run, "step")) >= 5)
        slurm.run("scancel", "--signal=USR1", number)  # as SLURM does before the time limit
        wait_until(lambda: events(run, "interrupt"))
        wait_until(lambda: slurm.job(number).get("Restarts") == "1")
        resumed = len(events(run, "step"))
        wait_until(lambda: len(events(run, "step")) >= resumed + 5)
        slurm.run("scontrol", "requeue", number)
        wait_until(lambda: len(events(run, "interrupt")) == 2)
        wait_until(lambda: slurm.job(number).get("JobState") == "COMPLETED")
        assert slurm.job(number)["Restarts"] == "2"
    assert events(run, "step") == list(range(1, STEPS + 1)), "none lost, none repeated"
    assert events(run, "resume") == events(run, "interrupt")
    logs = {path.name: path.read_text() for path in (run / "logs").iterdir()}
    assert set(logs) == {f"run-{number}.log", f"run-{number}-rank-0.log", f"run-{number}-rank-1.log"}
    written = [*logs.values(), *(path.read_text() for path in run.iterdir() if path.is_file())]
    assert not any(secret in text for text in written)

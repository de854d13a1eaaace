"""A run with random faults ends like a run without faults: the same weights, and every window drawn exactly once."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from dnachunker.pretrain.records.event_log import read_events

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(0)]

# Set DNACHUNKER_SOAK_MINUTES=30 for a real test: the run then lasts about 30 minutes, with a fault about every minute.
MINUTES = float(os.environ.get("DNACHUNKER_SOAK_MINUTES", "1"))
FAULT_SECONDS = min(60.0, 20 * MINUTES)


def weights_hash(run: Path) -> str:
    """A hash of the newest checkpoint's weights."""
    newest = max((run / "checkpoints").glob("step-*"))
    return hashlib.sha256((newest / "weights.safetensors").read_bytes()).hexdigest()


def ledger(path: Path) -> dict[tuple[int, int], list[str]]:
    """Windows by (step, rank); windows that a rank drew again after a resume replace the earlier ones."""
    found = {}
    for rank in range(2):
        for line in Path(f"{path}-{rank}").read_text().splitlines():
            step, windows = json.loads(line)
            found[step, rank] = windows
    return found


def test_random_faults_change_nothing(ranks: Any, tmp_path: Path) -> None:
    chance = random.Random(20_26)
    books = {name: {"kind": "keep_ledger", "rank": "all", "path": str(tmp_path / name)} for name in ("quiet", "soak")}
    options = ["guards.hang_seconds=60", "checkpoint.every=10", "evaluation.every=100000", "evaluation.windows=2"]
    probe = tmp_path / "probe"
    assert ranks.start(probe, *options, "steps=20").end() == [0, 0]
    stamps = [event["time"] for event in read_events(probe) if event["event"] == "step"]
    steps = round(60 * MINUTES / (stamps[-1] - stamps[4]) * (len(stamps) - 5))
    quiet, run = tmp_path / "quiet-run", tmp_path / "run"
    job = ranks.start(quiet, *options, f"steps={steps}", fault=books["quiet"])
    assert job.end() == [0, 0], job.printed()

    faults, codes = [], [1]
    while codes != [0, 0]:
        job = ranks.start(run, *options, f"steps={steps}", fault=books["soak"])
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGUSR1])
        rank, due = chance.randrange(2), time.monotonic() + chance.uniform(0.2, 1.8 if faults else 0.8) * FAULT_SECONDS
        while time.monotonic() < due and Path(f"/proc/{job.ranks[rank]}").exists():
            time.sleep(0.1)
        if Path(f"/proc/{job.ranks[rank]}").exists():
            os.kill(job.ranks[rank], number)
            faults.append(f"{number.name} to rank {rank}")
        codes = job.end()
    print(f"{steps} steps, {len(faults)} faults: {', '.join(faults)}")
    assert faults
    assert weights_hash(run) == weights_hash(quiet)
    assert ledger(tmp_path / "soak").keys() >= {(step, rank) for step in range(steps) for rank in range(2)}
    drawn = {key: windows for key, windows in ledger(tmp_path / "soak").items() if key[0] < steps}
    assert drawn == {key: windows for key, windows in ledger(tmp_path / "quiet").items() if key[0] < steps}

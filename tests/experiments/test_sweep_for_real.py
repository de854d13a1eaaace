"""A sweep that trains: killed twice, it ends with the same table as an uninterrupted one."""

import contextlib
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

_TIMED = {"bases_per_second", "peak_memory_gb"}
SMALL = [
    "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4", "data.seq_len=128",
    "data.global_batch=4", "evaluation.windows=4", "launch.processes=1",
]  # fmt: skip
CONFIG = f"""
name: real
question: Does a sweep that trains end in one table?
seeds: [0, 1]
scale: tiny
scales:
  tiny:
    preset: tiny
    overrides: [{", ".join(SMALL)}]
    corpus: {{config: bacterium, overrides: [workers=0]}}
    budget: {{bases: 10240}}
    evaluations: 2
    environment: {{OMP_NUM_THREADS: "1", DS_ACCELERATOR: cpu}}
rows: {{bimamba: [], conv: [model.mixer=conv]}}
analyses:
  cuts:
    command: [segment, --model, "{{export}}", --fasta, "{{samples}}/helicobacter_pylori_F32.fa.gz",
              --region, "NC_017366.1:1420942-1422942", --output, "{{output}}"]
    read: summary.json
    columns: [mean_chunk_bases]
tracking: {{enabled: false}}
"""


def untimed(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{name: value for name, value in row.items() if name not in _TIMED} for row in csv.DictReader(file)]


def test_killed_while_it_trains_it_ends_in_the_same_table(tmp_path: Path) -> None:
    config = tmp_path / "real.yaml"
    config.write_text(CONFIG)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(output: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dnachunker", "sweep", "--config", str(config), "--output", str(output)]
        return subprocess.Popen([*command, "--jobs", "2"], cwd=tmp_path, env=environment)

    whole, killed = tmp_path / "a" / "out", tmp_path / "b" / "out"
    assert start(whole).wait() == 0
    for wanted in ('"step"', "seed-1"):
        process = start(killed)
        while not any(wanted in f"{path}{path.read_text()}" for path in killed.glob("cells/*/*/run/events.jsonl")):
            assert process.poll() is None
            time.sleep(0.2)
        for victim in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait()
    assert start(killed).wait() == 0
    rows = untimed(killed / "cells.csv")
    assert rows == untimed(whole / "cells.csv")
    assert len(rows) == 4
    assert all(1.0 < float(row["masked_loss"]) < 4.0 and float(row["cuts.mean_chunk_bases.0"]) >= 1 for row in rows)
    assert rows[0]["steps"] == "20.0"

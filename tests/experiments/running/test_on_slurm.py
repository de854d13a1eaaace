"""`sweep --on slurm`: the submitted scripts, and a real SLURM where one can be started."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import SlurmCluster
from toy_sweep import sweep_command

from dnachunker.cluster.config import ClusterConfig
from dnachunker.experiments.cells import expand
from dnachunker.experiments.config import SweepConfig
from dnachunker.experiments.running.on_slurm import array_script, tables_script
from dnachunker.foundations.typed_config import load_config

ARRAY = """#!/bin/bash
#SBATCH --job-name=my-sweep
#SBATCH --array=0-3%2
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --partition=long
#SBATCH --time=2:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --requeue

cd '/home of/me' || exit 2
module load cuda/12 || exit 2
export GREETING='$(hello)'
export PYTHONSAFEPATH=1

cells=(
  plain:0
  conv:0
  plain:1
  conv:1
)
/opt/py -m dnachunker sweep --config '/data/my sweep/sweep.yaml' --output '/data/my sweep' """


def test_the_scripts_are_as_expected(config: Path) -> None:
    output = Path("/data/my sweep")
    cells = expand(load_config(SweepConfig, str(config), kind="experiments"), output)
    cluster = ClusterConfig.model_validate(
        {"kind": "slurm", "python": "/opt/py", "environment": {"GREETING": "$(hello)"},
         "slurm": {"partition": "long", "time": "2:00:00", "cpus_per_task": 8, "modules": ["cuda/12"]}}
    )  # fmt: skip
    script = array_script(cells, output, output / "sweep.yaml", cluster, 2, workdir="/home of/me")
    assert script.startswith(ARRAY + '--cell "${cells[$SLURM_ARRAY_TASK_ID]}" &\ncell=$!\n')
    last = tables_script(output, output / "sweep.yaml", cluster, workdir="/home of/me")
    assert "gres" not in last
    assert last.endswith("sweep --config '/data/my sweep/sweep.yaml' --output '/data/my sweep' --tables\n")
    for text in (script, last):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_what_is_submitted_is_what_is_missing(
    config: Path, sweep: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, said = tmp_path / "bin", tmp_path / "said"
    tools.mkdir()
    (tools / "sbatch").write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {said}\necho "42;cluster"\n')
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    out = tmp_path / "out"
    assert sweep("--output", out, "--cell", "plain:0").returncode == 0
    done = sweep("--output", out, "--on", "slurm", "--jobs", "3", "cluster.slurm.gres=null", "cluster.slurm.time='60'")
    assert done.returncode == 0, done.stderr
    assert "submitted array 42 of 3 cells" in done.stderr
    array, tables = said.read_text().splitlines()
    assert array.endswith(f"{out}/slurm.sh")
    assert "--dependency=afterany:42" in tables
    script = (out / "slurm.sh").read_text()
    assert "--array=0-2%3" in script
    assert "#SBATCH --time=60" in script
    assert "  plain:0\n" not in script
    assert f"--config {out}/slurm/0.yaml" in script

    first = (out / "slurm" / "0.yaml").read_text()
    assert sweep("--output", out, "--on", "slurm", "question=other").returncode == 0
    assert f"--config {out}/slurm/1.yaml" in (out / "slurm.sh").read_text()
    assert (out / "slurm" / "0.yaml").read_text() == first, "tasks that wait keep what they were submitted with"
    stored = (out / "sweep.yaml").read_bytes()
    assert sweep("--output", out, "--cell", "plain:0").returncode == 0
    assert (out / "sweep.yaml").read_bytes() == stored


@pytest.mark.slow
def test_a_real_array_ends_in_the_tables_of_a_local_sweep(
    config: Path, sweep: Callable[..., Any], tmp_path: Path
) -> None:
    here, there, folder = tmp_path / "a" / "out", tmp_path / "b" / "out", tmp_path / "slurm"
    assert sweep("--output", here).returncode == 0
    folder.mkdir()
    with SlurmCluster(folder, 2) as slurm:
        argv = sweep_command(config, "--output", there, "--on", "slurm", "--jobs", 2, "cluster.slurm.gres=null")
        environment = {**slurm.environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [*argv, "cluster.pass_environment=[PYTHONPATH]"], cwd=config.parent, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + 400
        while not (there / "sweep.html").exists():
            logs = "".join(f"\n--- {p.name}\n{p.read_text()}" for p in (there / "logs").glob("*.log"))
            assert time.monotonic() < deadline, logs
            time.sleep(0.5)
    for name in ("table.md", "table.csv", "cells.csv", "sweep.html"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name

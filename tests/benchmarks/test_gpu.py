"""`make gpu-bench` runs from end to end on a CPU, so that errors show before the first run on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.mark.slow
def test_every_section_runs_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    argv = [sys.executable, str(SCRIPT), "--smoke", "--minutes", "60", "--output", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=550, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(next(tmp_path.glob("gpu-*.json")).read_text())
    assert not found["failed"]
    assert not found["left_out"]
    assert max(error for name, error in found["parity"].items() if "float32" in name) <= 1e-5
    assert found["training"][0]["step_ms"] > 0
    page = next(tmp_path.glob("gpu-*.md")).read_text()
    assert "## Training steps" in page
    assert "| scan |" in page


def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "0"}
    argv = [sys.executable, str(SCRIPT), "--output", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    assert "no CUDA device" in done.stdout
    assert not list(tmp_path.iterdir())

"""Compiled for GPUs, which needs none, the Triton kernels keep all values in registers."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "kernel_registers.py"


def compiled(*arguments: str) -> list[dict[str, Any]]:
    """The rows of benchmarks/kernel_registers.py for the 172M preset."""
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    argv = [sys.executable, str(SCRIPT), "dnachunker-172m", *arguments, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)  # shown when the test fails, and with -s
    return [json.loads(line) for line in done.stdout.splitlines()]


def spilling(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert all(row["registers"] for row in rows)
    return [row for row in rows if row["stack"] or row["spill_stores"] or row["spill_loads"]]


@pytest.mark.slow
def test_no_kernel_of_a_bf16_run_spills_registers() -> None:
    rows = compiled("--dtype", "bfloat16", "--arch", "80", "90", "100")
    ours = "".join(path.read_text() for path in (ROOT / "model").glob("kernels_triton*.py"))
    launched = set(re.findall(r"@launched\ndef (\w+)", ours)) - {"write_one", "in_parts"}  # a trial, and autocast's
    assert {(row["kernel"], row["arch"]) for row in rows} == {
        (name, arch) for name in launched for arch in (80, 90, 100)
    }
    assert not spilling(rows)


@pytest.mark.slow
def test_the_kernels_of_an_autocast_run_that_read_float32_spill_none() -> None:
    names = ["norm_backward", "smooth_emit", "smooth_retreat", "in_parts"]
    rows = compiled("--dtype", "autocast", "--arch", "80", "--kernel", *names)
    assert {row["kernel"] for row in rows} == set(names)
    assert not spilling(rows)

"""Sweeps of a command that stands in for the real one."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_sweep import CONFIG, sweep_command

Sweep = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A sweep of two rows and two seeds."""
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    (tmp_path / "tasks" / "promoters").mkdir(parents=True)
    return path


@pytest.fixture
def sweep(config: Path) -> Sweep:
    """Runs `dnachunker sweep` on it, as a user does."""

    def run(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = sweep_command(config, *arguments)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=config.parent, env={**os.environ, **variables}
        )

    return run

"""Sweeps that run a stub in place of `dnachunker`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from toy_sweep import CONFIG, sweep_command

from dnachunker.cli import main


@dataclass(frozen=True)
class Done:
    """How a sweep ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A sweep of two rows and two seeds."""
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    (tmp_path / "tasks" / "promoters").mkdir(parents=True)
    return path


@pytest.fixture
def sweep(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `dnachunker sweep` on that config in this process, so that its imports are loaded once."""
    monkeypatch.chdir(config.parent)

    def run(*arguments: object, **variables: str) -> Done:
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            capsys.readouterr()
            code = main(sweep_command(config, *arguments)[3:])
        return Done(code, *capsys.readouterr())

    return run

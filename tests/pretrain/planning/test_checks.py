"""What a run is refused for before it starts: one line, exit code 2, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("verb", [["pretrain"], ["launch", "--on", "local"]], ids=["pretrain", "launch"])
def test_a_wrong_deepspeed_key_is_refused_before_a_rank_starts(
    dnachunker: Callable[..., Any], toy_folder: Path, tmp_path: Path, verb: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR")  # without it, DeepSpeed looks for a GPU and warns if it finds none
    run = tmp_path / "run"
    raw = "engine.deepspeed={zero_optimisation: {}}"
    done = dnachunker(*verb, "--config", "tiny", "--corpus", toy_folder, "--run", run, raw)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "dnachunker: engine.deepspeed: DeepSpeed has no key 'zero_optimisation'; nearest valid key: 'zero_optimization'"
    ]
    assert not run.exists()

"""A run folder belongs to one process at a time, and what a killed one left half-written goes."""

import os
from pathlib import Path

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import load_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.run_folder import CONFIG, RunLock, discard_unstarted, mark_started, store_config


def test_one_process_at_a_time_and_nothing_half_written_stays(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    left = [tmp_path / ".partial-1a-config.yaml", tmp_path / "checkpoints" / ".partial-2b-latest"]
    for path in left:
        path.touch()
        os.utime(path, (0, 0))
    fresh = tmp_path / "checkpoints" / ".partial-3c-latest"
    fresh.touch()
    lock = RunLock(tmp_path)
    assert not any(path.exists() for path in left)
    assert fresh.exists(), "a process that lives may be writing it"
    left[0].touch()
    with pytest.raises(BadInput, match="another process is training"):
        RunLock(tmp_path)
    assert left[0].exists(), "it may be the other process's"
    lock.release()


def test_only_what_the_start_of_a_refused_run_made_is_discarded(tmp_path: Path) -> None:
    config = load_config(PretrainConfig, "tiny", ["run=r", "data.corpus=c"], kind="pretrain")
    fresh, users, own, begun = (tmp_path / name for name in ("fresh", "users", "own", "begun"))
    (users / ".git").mkdir(parents=True)
    (users / ".git" / "HEAD").touch()
    own.mkdir()
    (own / CONFIG).write_text("mine")
    for run in (fresh, users, own, begun):
        store_config(config.model_copy(update={"run": str(run)}))
    mark_started(begun)
    for run in (fresh, users, own, begun):
        discard_unstarted(run)
    assert not fresh.exists()
    assert [path.name for path in users.iterdir()] == [".git"]
    assert (users / ".git" / "HEAD").exists()
    assert (own / CONFIG).exists(), "a config that was there before may be the user's only one"
    assert (begun / CONFIG).exists()

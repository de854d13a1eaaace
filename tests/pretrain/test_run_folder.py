"""A run folder belongs to one process at a time, and what a killed one left half-written goes."""

import os
from pathlib import Path

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.run_folder import CONFIG, RunLock, discard_unstarted


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


def test_only_a_folder_in_which_no_run_has_begun_is_discarded(tmp_path: Path) -> None:
    refused, locked, begun = (tmp_path / name for name in ("refused", "locked", "begun"))
    for run in (refused, locked, begun):
        (run / ".ranks").mkdir(parents=True)
        (run / CONFIG).touch()
    (begun / "events.jsonl").touch()
    lock = RunLock(locked)
    for run in (refused, locked, begun):
        discard_unstarted(run)
    lock.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "locked"]
    assert (locked / CONFIG).exists()
    discard_unstarted(begun)
    assert (begun / CONFIG).exists()

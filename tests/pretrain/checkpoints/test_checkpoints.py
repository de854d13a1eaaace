"""Which checkpoints stay, which one a resume takes, and copies in another folder or object store."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.checkpoints import saving
from dnachunker.pretrain.checkpoints.copies import RemoteCopies
from dnachunker.pretrain.checkpoints.saving import newest_whole_checkpoint, superseded
from dnachunker.pretrain.config import CheckpointSettings


def make(run: Path, step: int) -> Path:
    """The files of a checkpoint: `run`/checkpoints/step-NNNNNNNN with a manifest."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "weights.pt").write_bytes(bytes([step]) * 1000)
    digest = hashlib.sha256(bytes([step]) * 1000).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"engine/weights.pt": digest}))
    return folder


def test_the_newest_and_every_mth_are_kept() -> None:
    found = [Path(f"step-{step:08d}") for step in range(100, 800, 100)]
    gone = superseded(found, CheckpointSettings(keep=2, keep_every=300))
    assert [path.name for path in gone] == [f"step-{step:08d}" for step in (100, 200, 400, 500)]
    assert len(superseded(found, CheckpointSettings(keep=2))) == 5


def test_damage_makes_a_resume_fall_back_and_never_start_over(tmp_path: Path) -> None:
    assert newest_whole_checkpoint(tmp_path) == (None, [])
    older, newer = make(tmp_path, 4), make(tmp_path, 8)
    assert newest_whole_checkpoint(tmp_path) == (newer, [])
    (newer / "engine" / "weights.pt").write_bytes(b"short")
    found, damage = newest_whole_checkpoint(tmp_path)
    assert found == older
    assert "step-00000008/engine/weights.pt: differs" in damage[0]
    (older / "manifest.json").unlink()
    with pytest.raises(BadInput, match="every checkpoint is damaged"):
        newest_whole_checkpoint(tmp_path)


def test_too_little_space_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saving._lack_of_space(tmp_path) == ""
    make(tmp_path, 4)
    assert saving._lack_of_space(tmp_path) == ""
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "make room" in saving._lack_of_space(tmp_path)


@pytest.fixture
def s3() -> Iterator[str]:
    """Endpoint of an S3 server with a bucket `runs`."""
    import socket
    import time
    import urllib.request

    s3fs = pytest.importorskip("s3fs", reason="needs s3fs: pip install 'dnachunker[s3]'")
    pytest.importorskip("moto", reason="needs moto[server]: pip install 'dnachunker[dev]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(endpoint, timeout=1)
            break
        except OSError:
            time.sleep(0.1)
    with pytest.MonkeyPatch.context() as patch:
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        for name, value in zip(names, (endpoint, "test", "test", "us-east-1"), strict=True):
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("runs")
        yield "s3://runs/yeast"
    server.kill()
    server.wait()


@pytest.mark.slow
def test_copies_reach_an_object_store(tmp_path: Path, s3: str) -> None:
    import s3fs

    said: list[str] = []
    copies = RemoteCopies(tmp_path, s3, said.append)
    copies.add(make(tmp_path, 4))
    copies.close()
    assert said == []
    store = s3fs.S3FileSystem()
    assert store.cat_file("runs/yeast/step-00000004/engine/weights.pt") == bytes([4]) * 1000
    assert store.exists("runs/yeast/step-00000004/manifest.json")


def test_a_copy_outlives_the_removal_of_its_checkpoint_and_failures_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    copies = RemoteCopies(tmp_path, str(tmp_path / "far"), said.append)
    folder = make(tmp_path, 4)
    left = tmp_path / "far" / folder.name / "engine" / ".partial-1a-weights.pt"  # by a process that was killed
    left.parent.mkdir(parents=True)
    left.touch()
    copies.add(folder)
    shutil.rmtree(folder)
    copies.close()
    assert said == []
    copied = tmp_path / "far" / "step-00000004"
    assert sorted(os.listdir(copied)) == ["engine", "manifest.json"]
    assert [path.name for path in (copied / "engine").iterdir()] == ["weights.pt"]
    assert (copied / "engine" / "weights.pt").read_bytes() == bytes([4]) * 1000
    assert list((tmp_path / "checkpoints" / ".copying").iterdir()) == []

    (tmp_path / "file").touch()
    copies = RemoteCopies(tmp_path, str(tmp_path / "file"), said.append)
    copies.add(make(tmp_path, 8))
    copies.close()
    assert said[0].startswith("checkpoint.copy_to: step-00000008 is not copied")

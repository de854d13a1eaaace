"""A corpus in an object store: a real S3 API server on loopback, with faults put in between."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dnachunker.dataprep import storage
from dnachunker.dataprep.build import steps
from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.verify import verify_corpus
from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.order.sample_order import held_out_windows

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'dnachunker[s3]'")
pytest.importorskip("moto", reason="needs moto[server]: pip install 'dnachunker[dev]'")

BUCKET = "s3://genomes"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An s3fs file system on a server that lives as long as this module's tests."""
    import s3fs

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        settings = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "no_proxy": "127.0.0.1",
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        s3fs.S3FileSystem.clear_instance_cache()
        store = s3fs.S3FileSystem()
        store.mkdir("genomes")
        yield store
    server.send_signal(signal.SIGTERM)
    server.wait(10)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CorpusConfig:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # a build at a URL has its partial folder there
    return CorpusConfig(
        sources={"m": {"path": "sample:vertebrate_mitochondria.fa.gz"}},
        split={"kind": "hash", "tile": 4096, "valid": 0.2},
        block_bases=4096,
        shard_bases=8192,
    )


def content(store: Any, name: str) -> dict[str, bytes]:
    store.invalidate_cache()
    return {path.rsplit("/", 1)[1]: store.cat_file(path) for path in store.ls(f"genomes/{name}", detail=False)}


def test_a_corpus_at_a_url_equals_the_local_one(s3: Any, config: CorpusConfig, tmp_path: Path) -> None:
    local = build_corpus(config, tmp_path / "local", workers=0, quiet=True).corpus
    remote = build_corpus(config, f"{BUCKET}/one", workers=2, quiet=True).corpus
    assert content(s3, "one") == {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()}
    opened = Corpus.open(f"{BUCKET}/one")
    assert opened.fingerprint == local.fingerprint == remote.fingerprint
    assert verify_corpus(opened) == []
    windows = held_out_windows(local.blocks("train").bases, seq_len=500, count=40)
    streamed = WindowReader(opened, "train").read(windows, 500)
    assert streamed.tobytes() == WindowReader(local, "train").read(windows, 500).tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["local"]  # no partial folder stays
    assert build_corpus(config, f"{BUCKET}/one", workers=0, quiet=True).reused
    shard = f"genomes/one/{opened.index.shards[2].name}"
    s3.pipe_file(shard, s3.cat_file(shard) + b"\0")
    assert ["1 bytes too many" in fault for fault in verify_corpus(opened)] == [True]
    with pytest.raises(BadInput, match="--overwrite"):
        build_corpus(config, f"{BUCKET}/one", workers=0, quiet=True)
    build_corpus(config, f"{BUCKET}/one", workers=0, quiet=True, overwrite=True)
    assert verify_corpus(opened) == []
    s3.pipe_file("genomes/other/thesis.tex", b"x")
    with pytest.raises(BadInput, match="not a corpus"):
        build_corpus(config, f"{BUCKET}/other", workers=0, quiet=True, overwrite=True)


def test_an_interrupted_upload_is_no_corpus_and_continues(
    s3: Any, config: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    write = steps.shard_task

    def _task(*arguments: Any) -> Any:
        nonlocal written
        written += 1
        if written > 3:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(steps, "shard_task", _task)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(config, f"{BUCKET}/two", workers=0, quiet=True)
    assert len(content(s3, "two")) == 3
    with pytest.raises(BadInput, match="no index"):
        Corpus.open(f"{BUCKET}/two")
    monkeypatch.setattr(steps, "shard_task", write)
    assert build_corpus(config, f"{BUCKET}/two", workers=0, quiet=True).resumed_shards == 3
    assert verify_corpus(Corpus.open(f"{BUCKET}/two")) == []


def test_faults_of_the_store_are_waited_out(s3: Any, monkeypatch: pytest.MonkeyPatch, config: CorpusConfig) -> None:
    build_corpus(config, f"{BUCKET}/three", workers=0, quiet=True)
    monkeypatch.setattr(storage, "_RETRY_AFTER_SECONDS", (0.0, 0.0, 0.0))
    filesystem, _ = storage._filesystem(BUCKET)
    calls = 0
    read = filesystem.cat_file

    def _cat_file(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 4:
            raise OSError(5, "503 Slow Down")
        return read(*arguments, **options)

    monkeypatch.setattr(filesystem, "cat_file", _cat_file)
    assert verify_corpus(Corpus.open(f"{BUCKET}/three"), threads=1) == []
    monkeypatch.setattr(filesystem, "cat_file", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "503 Slow Down")))
    with pytest.raises(BadInput, match="cannot be read: 503 Slow Down|Input/output"):
        Corpus.open(f"{BUCKET}/three")

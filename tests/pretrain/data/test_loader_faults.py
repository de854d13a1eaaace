"""Damage is found before a wrong base is used, and a bad network changes nothing but the time it takes."""

import contextlib
import http.server
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader_ledger import curriculum, drawn, ledger_lines, loader

from dnachunker.dataprep import storage
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.shard_format import CorruptBlock
from dnachunker.dataprep.corpus.verify import verify_corpus
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import N_ID
from dnachunker.pretrain.data.frame_reader import FrameCache
from dnachunker.pretrain.data.window_reader import BadBlockPolicy

EPOCH = 19  # steps that see every base of the toy corpus at least once


def shards_of(corpus: Corpus) -> list[str]:
    return sorted(set(corpus.blocks("train").shard.tolist()))


def damaged(folder: Path, scratch: Path, damage: Callable[[Path], None]) -> Corpus:
    copy = scratch / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    damage(copy)
    return Corpus.open(copy)


def read_until_refused(corpus: Corpus, expected: list[dict[int, str]]) -> str:
    """The error of the loader on a corpus, or nothing; every batch before the error must be right."""
    data = loader(corpus, curriculum(corpus), end_step=EPOCH)
    try:
        for step in range(EPOCH):
            assert ledger_lines(data, data.draw(), 0, 1) == expected[step]
    except CorruptBlock as error:
        return str(error)
    finally:
        data.close()
    return ""


@pytest.fixture(scope="module")
def expected(toy_corpus: Corpus) -> list[dict[int, str]]:
    return drawn(loader(toy_corpus, curriculum(toy_corpus), end_step=EPOCH), EPOCH)


def assert_located(message: str, shards: list[str]) -> None:
    assert any(f"/{shard}: block " in message for shard in shards), message
    assert re.search(r"block [\w-]+ at offset \d+: ", message), message
    assert "\n" not in message


def test_truncation_anywhere_is_found(toy_corpus: Corpus, tmp_path: Path, expected: list[dict[int, str]]) -> None:
    chance = random.Random(1)
    for _ in range(50):
        shard = chance.choice(shards_of(toy_corpus))
        size = (Path(toy_corpus.path) / shard).stat().st_size
        keep = chance.randrange(size)

        def truncate(folder: Path, shard: str = shard, keep: int = keep) -> None:
            with open(folder / shard, "r+b") as file:
                file.truncate(keep)

        assert_located(read_until_refused(damaged(Path(toy_corpus.path), tmp_path, truncate), expected), [shard])


def test_a_flipped_bit_anywhere_is_found(toy_corpus: Corpus, tmp_path: Path, expected: list[dict[int, str]]) -> None:
    chance = random.Random(2)
    unnoticed = 0
    for _ in range(200):
        shard = chance.choice(shards_of(toy_corpus))
        size = (Path(toy_corpus.path) / shard).stat().st_size
        place, bit = chance.randrange(size), chance.randrange(8)

        def flip(folder: Path, shard: str = shard, place: int = place, bit: int = bit) -> None:
            data = bytearray((folder / shard).read_bytes())
            data[place] ^= 1 << bit
            (folder / shard).write_bytes(data)

        corpus = damaged(Path(toy_corpus.path), tmp_path, flip)
        message = read_until_refused(corpus, expected)
        if message:
            assert_located(message, [shard])
        else:  # a bit that zstd itself ignores, in the frame after the last block: no base lies there
            table = toy_corpus.blocks("train")
            own = table.shard == shard
            assert place >= (table.offset[own] + table.length[own]).max()
            assert any(shard in fault for fault in verify_corpus(corpus))
            unnoticed += 1
    assert unnoticed <= 2


def test_deleted_swapped_and_grown_shards_are_found(
    toy_corpus: Corpus, tmp_path: Path, expected: list[dict[int, str]]
) -> None:
    first, second = shards_of(toy_corpus)[:2]

    def swap(folder: Path) -> None:
        (folder / first).rename(folder / "aside")
        (folder / second).rename(folder / first)
        (folder / "aside").rename(folder / second)

    def grow(folder: Path) -> None:
        with open(folder / first, "ab") as file:
            file.write(b"garbage")

    for damage, shards in ((lambda f: (f / second).unlink(), [second]), (swap, [first, second]), (grow, [first])):
        assert_located(read_until_refused(damaged(Path(toy_corpus.path), tmp_path, damage), expected), shards)


def test_skipping_reads_a_bad_block_as_n_and_stops_at_the_cap(
    toy_corpus: Corpus, tmp_path: Path, expected: list[dict[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    table = toy_corpus.blocks("train")
    rows = [2, 9]

    def hurt(folder: Path) -> None:
        for row in rows:
            path = folder / str(table.shard[row])
            data = bytearray(path.read_bytes())
            data[int(table.offset[row]) + int(table.length[row]) // 2] ^= 1
            path.write_bytes(data)

    corpus = damaged(Path(toy_corpus.path), tmp_path, hurt)
    order = curriculum(corpus)
    data = loader(corpus, order, end_step=EPOCH, workers=2, bad_blocks=BadBlockPolicy(skip=True, most=2))
    touched = 0
    for step in range(EPOCH):
        drawn_step = data.draw()
        lines = ledger_lines(data, drawn_step, 0, 1)
        for sample, block in enumerate(drawn_step.windows.block.tolist()):
            if block in rows:
                valid = drawn_step.micro_batches[0].attention_mask[sample]
                assert (drawn_step.micro_batches[0].input_ids[sample][valid] == N_ID).all()
                assert drawn_step.micro_batches[0].loss_weights[sample].sum() == 0
                touched += 1
            else:
                assert lines[sample] == expected[step][sample]
    data.close()
    assert touched
    said = capsys.readouterr().err
    assert all(str(table.key[row]) in said for row in rows)

    data = loader(corpus, order, end_step=EPOCH, bad_blocks=BadBlockPolicy(skip=True, most=1))
    with pytest.raises(BadInput, match=r"max_bad_blocks is 1: run `dnachunker corpus verify`"):
        drawn(data, EPOCH)


class FlakyFiles(http.server.SimpleHTTPRequestHandler):
    """A file server with byte ranges that fails in every way that a network fails, but not for ever."""

    protocol_version = "HTTP/1.1"
    chance = random.Random(3)
    faults: dict[str, int]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, status = path.read_bytes(), 200
        if ranged := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(ranged[1]), int(ranged[2])
            if first >= len(data):
                self.send_error(416)
                return
            data, status = data[first : last + 1], 206
        fault = self.chance.choices(["none", "busy", "stall", "cut", "short"], [60, 15, 3, 12, 10])[0]
        if fault == "short" and status == 200:
            fault = "cut"  # without a range nobody can tell a short answer from a small file
        self.faults[fault] = self.faults.get(fault, 0) + 1
        if fault == "busy":
            self.send_error(503)
            return
        if fault == "stall":
            time.sleep(1.5)
        if fault == "short":
            data = data[: len(data) // 2]
        self.close_connection = fault == "cut"
        with contextlib.suppress(BrokenPipeError):  # a client that waited too long has left
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def flaky_server(toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, int]]]:
    monkeypatch.setattr(storage, "_RETRY_AFTER_SECONDS", (0.01,) * 20)
    monkeypatch.setattr(storage, "_STALL_SECONDS", 0.6)
    faults: dict[str, int] = {}
    handler = type("Handler", (FlakyFiles,), {"faults": faults})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *request: handler(*request, directory=toy_corpus.path)
    )
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", faults
    server.shutdown()
    server.server_close()


def test_a_flaky_server_delivers_the_identical_stream(
    flaky_server: tuple[str, dict[str, int]], tmp_path: Path, expected: list[dict[int, str]]
) -> None:
    url, faults = flaky_server
    corpus = Corpus.open(url)
    cache = FrameCache(tmp_path / "frames", 10**6)
    assert drawn(loader(corpus, curriculum(corpus), end_step=EPOCH, workers=2, frame_cache=cache), EPOCH) == expected
    assert all(faults.get(kind) for kind in ("busy", "stall", "cut", "short")), faults

    # a second run asks for the shards' ends only: the blocks lie in the cache, and a damaged copy there is replaced
    asked = sum(faults.values())
    victim = next(path for path in (tmp_path / "frames").iterdir())
    victim.write_bytes(victim.read_bytes()[:-3] + b"???")
    cache = FrameCache(tmp_path / "frames", 10**6)
    again = drawn(loader(corpus, curriculum(corpus), end_step=EPOCH, workers=1, frame_cache=cache), EPOCH)
    assert again == expected
    assert sum(faults.values()) - asked < asked / 2


def test_the_frame_cache_stays_within_its_limit(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "frames", 10_000)
    rng = np.random.default_rng(0)
    for number in range(200):
        cache.put(f"frame-{number}", rng.bytes(300))
        assert sum(path.stat().st_size for path in (tmp_path / "frames").iterdir()) <= 10_000 + 300
        assert cache.get("frame-0") is not None, "what is used stays"
    assert cache.get("frame-1") is None
    assert cache.get("frame-199") is not None
    cache.drop("frame-199")
    assert cache.get("frame-199") is None

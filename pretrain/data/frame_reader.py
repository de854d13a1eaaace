"""Reads frames, the compressed blocks of a shard: from a local disk, or early from a server through a disk cache."""

import contextlib
import os
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dnachunker.dataprep.corpus.index import BlockTable, Corpus
from dnachunker.dataprep.storage import is_url

_REMOTE_REQUESTS = 16  # at the same time; a request mostly waits
_MOST_PENDING = 1024
_FULL_TO = 0.9  # share of the limit that an eviction leaves, so that not every new frame evicts
_LOOK_AGAIN = 0.02  # share of the limit this process adds before it measures the folder, to which others add too


class FrameCache:
    """Frames by name in a folder; the least recently used are removed first. Safe between threads and processes.

    Every frame from the cache is checked against the corpus index, and the folder may be deleted at any time.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._added = limit_bytes  # measure at the first `put`: an earlier run may have had a larger limit
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> bytes | None:
        """The frame, or None."""
        path = self._folder / name
        try:
            frame = path.read_bytes()
            os.utime(path)
        except OSError:  # not there, or just evicted
            return None
        return frame

    def put(self, name: str, frame: bytes) -> None:
        """Keep a frame; if the disk is full, the frame is not kept and nothing fails."""
        with contextlib.suppress(OSError):
            handle, partial = tempfile.mkstemp(dir=self._folder, prefix=".")
            with os.fdopen(handle, "wb") as file:
                file.write(frame)
            os.replace(partial, self._folder / name)
        self._added += len(frame)
        if self._added > self._limit * _LOOK_AGAIN:
            self._added = 0
            self._evict()

    def drop(self, name: str) -> None:
        """Remove a damaged frame."""
        (self._folder / name).unlink(missing_ok=True)

    def _evict(self) -> None:
        files = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # another rank evicts too
                files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        total = sum(size for _, size, _ in files)
        if total <= self._limit:
            return
        for _, size, path in sorted(files):
            if total <= self._limit * _FULL_TO:
                return
            Path(path).unlink(missing_ok=True)
            total -= size


class FrameReader:
    """Reads frames of one block table; safe between threads."""

    def __init__(self, corpus: Corpus, blocks: BlockTable, cache: FrameCache | None = None) -> None:
        self._corpus = corpus
        self._blocks = blocks
        self._cache = cache
        self._lock = threading.Lock()
        # shard -> its last row: within a shard rows are ordered by offset, and the dict keeps the last
        self._unchecked = dict(zip(blocks.shard.tolist(), range(len(blocks)), strict=True))
        self._is_remote = is_url(corpus.path)
        self._pool = ThreadPoolExecutor(_REMOTE_REQUESTS, "frame-reader") if self._is_remote else None
        self._pending: OrderedDict[int, Future[bytes]] = OrderedDict()

    def prefetch(self, rows: Iterable[int]) -> None:
        """Ask the server for frames that will be read soon; does nothing for a corpus on a local disk."""
        if self._pool is None:
            return
        with self._lock:
            for row in rows:
                if row not in self._pending:
                    self._pending[row] = self._pool.submit(self._fetch, row)
            while len(self._pending) > _MOST_PENDING:
                self._pending.popitem(last=False)[1].cancel()

    def read(self, row: int) -> bytes:
        """The frame at `row`, not yet decoded.

        Raises:
            CorruptBlock: the shard is missing or too short; names shard, block and offset.
            BadInput: the shard cannot be read at the moment (permissions, network).
        """
        with self._lock:
            pending = self._pending.pop(row, None)
        return self._fetch(row) if pending is None else pending.result()

    def check_end(self, row: int) -> None:
        """Before the first block of a shard, check with one short read that the shard ends where the index says.

        Raises:
            CorruptBlock: the shard is missing, shorter or longer, or its end is damaged.
            BadInput: the shard cannot be read at the moment.
        """
        with self._lock:
            last_row = self._unchecked.pop(str(self._blocks.shard[row]), None)
        if last_row is not None:
            self._corpus.check_shard_end(self._blocks, last_row)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, row: int) -> bytes:
        if not self._is_remote:
            return self._corpus.read_frame(self._blocks, row)
        name = f"{self._blocks.shard[row]}-{self._blocks.offset[row]}-{self._blocks.crc32[row]:08x}"
        if self._cache is not None:
            kept = self._cache.get(name)
            if kept is not None and self._is_sound(kept, row):
                return kept
            self._cache.drop(name)
        frame = self._corpus.read_frame(self._blocks, row)
        if not self._is_sound(frame, row):  # read once more: the damage may have happened in transit
            frame = self._corpus.read_frame(self._blocks, row)
        elif self._cache is not None:
            self._cache.put(name, frame)
        return frame

    def _is_sound(self, frame: bytes, row: int) -> bool:
        return zlib.crc32(frame) == int(self._blocks.crc32[row])

"""Stored blocks as bytes: straight from a local disk; from a server ahead of need, through a disk cache if wanted."""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from dnachunker.dataprep.corpus.index import BlockTable, Corpus
from dnachunker.dataprep.storage import is_url

from .frame_cache import FrameCache

_REMOTE_REQUESTS = 16  # at the same time; a request is mostly waiting
_MOST_PENDING = 1024


class FrameReader:
    """Reads frames of one block table; safe between threads."""

    def __init__(self, corpus: Corpus, blocks: BlockTable, cache: FrameCache | None = None) -> None:
        self._corpus = corpus
        self._blocks = blocks
        self._cache = cache
        self._lock = threading.Lock()
        # rows are in canonical order, which within a shard is the order of offsets: the last row stays
        self._unchecked = dict(zip(blocks.shard.tolist(), range(len(blocks)), strict=True))
        self._is_remote = is_url(corpus.path)
        self._pool = ThreadPoolExecutor(_REMOTE_REQUESTS, "frame-reader") if self._is_remote else None
        self._pending: OrderedDict[int, Future[bytes]] = OrderedDict()

    def prefetch(self, rows: Iterable[int]) -> None:
        """Ask the server for frames that will be read soon; on a local disk the system does that itself."""
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
            BadInput: it cannot be read now (permissions, network).
        """
        with self._lock:
            pending = self._pending.pop(row, None)
        return self._fetch(row) if pending is None else pending.result()

    def check_end(self, row: int) -> None:
        """The first time a shard is touched, check that it ends where the index says; costs one short read a shard.

        Raises:
            CorruptBlock: it is missing, shorter or longer, or its end is damaged.
            BadInput: it cannot be read now.
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
        if not self._is_sound(frame, row):  # once more: damage on the way differs from damage at rest
            frame = self._corpus.read_frame(self._blocks, row)
        elif self._cache is not None:
            self._cache.put(name, frame)
        return frame

    def _is_sound(self, frame: bytes, row: int) -> bool:
        return zlib.crc32(frame) == int(self._blocks.crc32[row])

"""Writes blocks into one shard: a seekable `.tar.zst` file that appears complete or not at all."""

import hashlib
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from dnachunker.dataprep.base_loops import count_gc
from dnachunker.dataprep.corpus.shard_format import encode_end_of_archive, encode_parts
from dnachunker.dataprep.genomes.prepared_sequence import Stretch
from dnachunker.dataprep.packed_codes import run_bases


class BlockRow(NamedTuple):
    """Facts about a written block: counts of its letters, and place and CRC-32 of its frame in the shard."""

    n_bases: int
    soft_masked: int
    gc: int
    offset: int
    length: int
    crc32: int


class ShardWriter:
    """Writes one shard; a context manager: the file gets its name only if the `with` body ends without an exception."""

    def __init__(self, path: Path, *, level: int) -> None:
        self.path = path
        self.level = level
        self.bytes = 0
        self._sha256 = hashlib.sha256()
        self._tar_bytes = 0
        # the process id keeps an earlier attempt of the same task, still running, from writing into this file
        self._part = path.with_name(f"{path.name}.{os.getpid()}.part")
        self._handle = open(self._part, "wb")  # noqa: SIM115 - closed by __exit__

    def add(self, stretch: Stretch, key: str, coordinates: dict[str, Any]) -> BlockRow:
        """Append one block; `coordinates` has the names of `shard_format.COORDINATES`."""
        _, bases, n_runs, soft_runs = stretch
        frame, tar_bytes = encode_parts(key, coordinates, bases.tobytes(), n_runs, soft_runs, self.level)
        counts = run_bases(n_runs), run_bases(soft_runs), count_gc(bases)
        row = BlockRow(*counts, self.bytes, len(frame), zlib.crc32(frame))
        self._tar_bytes += tar_bytes
        self._append(frame)
        return row

    @property
    def sha256(self) -> str:
        """sha256 of everything written so far; after the `with` body, of the whole file."""
        return self._sha256.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._append(encode_end_of_archive(self._tar_bytes, self.level))
                self._handle.flush()
                os.fsync(self._handle.fileno())
                self._handle.close()
                os.replace(self._part, self.path)
        finally:
            self._handle.close()
            self._part.unlink(missing_ok=True)

    def _append(self, frame: bytes) -> None:
        self._handle.write(frame)
        self._sha256.update(frame)
        self.bytes += len(frame)

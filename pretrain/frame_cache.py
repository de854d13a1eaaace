"""Blocks of a remote corpus kept on a local disk: one bounded folder, shared by all ranks of a machine."""

import contextlib
import os
import tempfile
from pathlib import Path

_FULL_TO = 0.9  # an eviction makes this much room, so that it does not come with every block
_LOOK_AGAIN = 0.02  # share of the limit this process adds before it looks at what the others have added


class FrameCache:
    """Frames by name; the least recently used go first. Safe between threads and processes, and safe to delete.

    Whoever reads a frame checks it against the corpus index, so nothing here is trusted.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._added = limit_bytes  # look at once: an earlier run may have left it full under another limit
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
        """Keep a frame; a full disk is no failure, only no cache."""
        with contextlib.suppress(OSError):
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".")
            with os.fdopen(handle, "wb") as file:
                file.write(frame)
            os.replace(temporary, self._folder / name)
        self._added += len(frame)
        if self._added > self._limit * _LOOK_AGAIN:
            self._added = 0
            self._evict()

    def drop(self, name: str) -> None:
        """Forget a frame that turned out damaged."""
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

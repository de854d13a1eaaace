"""Opens text files that users bring, gzipped or not."""

import gzip
import io
import zlib
from pathlib import Path
from typing import TextIO

# what reading raises where a file is damaged, or is no text
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error)


def open_text(path: Path) -> TextIO:
    """Open a text file; gzip is recognised by its first bytes."""
    raw = path.open("rb")
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if zipped else raw, encoding="utf-8", newline="")

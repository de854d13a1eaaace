"""bgzip files: gzip members that state their length, so that threads can decompress several members at a time.

The format is BGZF (SAM specification, section 4.1): members of at most 64 KiB, each with an extra field `BC`.
"""

import struct
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from isal import igzip, igzip_lib

HEADER_BYTES = 18
_MAGIC, _EXTRA = b"\x1f\x8b\x08\x04", b"\x06\x00BC\x02\x00"  # deflate; 6 bytes of extra fields; `BC` with 2 bytes
_MEMBERS = 16  # in a batch: at most 1 MiB of content
_THREADS = 2  # scanning FASTA takes half as long as decompressing it


def is_bgzip(header: bytes) -> bool:
    """Whether these first `HEADER_BYTES` bytes of a gzip member were written by bgzip."""
    return len(header) >= HEADER_BYTES and header.startswith(_MAGIC) and header[10:16] == _EXTRA


def decompress_members(handle: BinaryIO) -> Generator[bytes, None, int]:
    """The content from the handle's position on, in pieces of at most 1 MiB, while the members are intact bgzip.

    Returns:
        The offset after the last intact batch. Any bytes after it are damaged, truncated or not bgzip.
    """
    with ThreadPoolExecutor(_THREADS, "gunzip") as pool:
        started: deque[tuple[int, Future[bytes]]] = deque()
        position = handle.tell()
        batches = _batches(handle)
        try:
            while True:
                while len(started) <= 2 * _THREADS and (batch := next(batches, None)):
                    started.append((len(batch), pool.submit(igzip.decompress, batch)))
                if not started:
                    return position
                size, content = started.popleft()
                try:
                    yield content.result()
                except (OSError, EOFError, igzip_lib.IsalError):  # type: ignore[misc]  # its stub calls it an instance
                    return position
                position += size
        finally:
            pool.shutdown(cancel_futures=True)


def _batches(handle: BinaryIO) -> Iterator[bytes]:
    """Batches of whole members, up to the first position where no member starts or a member is truncated."""
    members: list[bytes] = []
    while is_bgzip(header := handle.read(HEADER_BYTES)):
        rest = struct.unpack("<H", header[16:])[0] + 1 - HEADER_BYTES
        if rest < 0 or len(body := handle.read(rest)) < rest:
            break
        members += (header, body)
        if len(members) == 2 * _MEMBERS:
            yield b"".join(members)
            members = []
    if members:
        yield b"".join(members)

"""bgzip files: gzip members that say how long they are, so that threads can decompress several at a time.

The members are those of the SAM specification (section 4.1, BGZF): at most 64 KiB each, with an extra field `BC`.
"""

import struct
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from isal import igzip, igzip_lib

HEADER_BYTES = 18
_MAGIC, _EXTRA = b"\x1f\x8b\x08\x04", b"\x06\x00BC\x02\x00"  # deflate with an extra field of 6 bytes, a `BC` of 2
_MEMBERS = 16  # in a batch: at most 1 MiB of content
_THREADS = 2  # scanning FASTA takes half as long as decompressing it


def is_bgzip(header: bytes) -> bool:
    """Whether a gzip member that starts so (`HEADER_BYTES`) is one of bgzip's."""
    return header.startswith(_MAGIC) and header[10:16] == _EXTRA


def decompress_members(handle: BinaryIO) -> Generator[bytes, None, int]:
    """The content from the handle's position on, as far as the file is sound bgzip, in chunks of at most 1 MiB.

    Returns:
        The offset up to which the file was read. What follows, if anything, is damaged, cut short or not bgzip.
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
    """Whole members, some at a time, up to the first place where none starts, or one is cut short."""
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

"""A file as a stream of plain bytes: plain, gzip, bgzip (multi-member gzip) and zstd, told apart by their first bytes.

Decompression runs in a thread of its own, or in two for bgzip, a few chunks ahead of the consumer; it leaves the
interpreter lock free.
"""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from isal import igzip_lib, isal_zlib

from dnachunker.foundations.failures import BadInput

from .bgzip import HEADER_BYTES, decompress_members, is_bgzip

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60)))  # and skippable
TWOBIT_MAGICS = (b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43")
_FOREIGN = {
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"PK\x03\x04": "a zip archive",
    **dict.fromkeys(TWOBIT_MAGICS, "a .2bit file"),
}
_READ_BYTES = 2**18  # small, because each bgzip member copies what is left of the chunk
_READ_ZSTD_BYTES = 2**12  # a zstd block of a few bytes may stand for 128 KiB: this bounds what one call can return
_YIELD_BYTES = 2**20  # four times this no longer fits the cache, and scanning takes half as long again
_CHUNKS_AHEAD = 2


def read_plain(path: Path) -> Iterator[bytes]:
    """The decompressed content in chunks of at most about 4 MiB; memory stays bounded.

    Raises:
        BadInput: missing, unreadable, empty, truncated or damaged, or compressed in a way this does not read.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(HEADER_BYTES)
            handle.seek(0)
            if not head:
                raise BadInput(f"{path}: the file is empty; expected FASTA")
            for magic, what in _FOREIGN.items():
                if head.startswith(magic):
                    raise BadInput(f"{path}: {what}; convert it to plain, gzip, bgzip or zstd")
            if is_bgzip(head):
                handle.seek((yield from decompress_members(handle)))
                yield from _ahead(_joined(_gzip_members(path, handle)))  # the end, or what is wrong
            elif head.startswith(_GZIP_MAGIC):
                yield from _ahead(_joined(_gzip_members(path, handle)))
            elif head.startswith(_ZSTD_MAGICS):
                yield from _ahead(_joined(_zstd_frames(path, handle)))
            else:
                while chunk := handle.read(_YIELD_BYTES):
                    yield chunk
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; check the source's `path`") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def is_plain(path: Path) -> bool:
    """Whether the file's bytes can be read as they are (False also when they cannot be read at all)."""
    try:
        with open(path, "rb") as handle:
            return not handle.read(4).startswith((_GZIP_MAGIC, *_ZSTD_MAGICS))
    except OSError:
        return False


def is_twobit(path: Path) -> bool:
    """Whether the file starts as a .2bit file does."""
    try:
        with open(path, "rb") as handle:
            return handle.read(4) in TWOBIT_MAGICS
    except OSError:
        return False


def _gzip_members(path: Path, handle: BinaryIO) -> Iterator[bytes]:
    """Every member of the file: `zlib.decompress` alone would stop, silently, after the first."""
    decoder = isal_zlib.decompressobj(31)
    started = False
    pending = handle.read(_READ_BYTES)
    while pending:
        if not started and not pending.strip(b"\0"):  # zero padding after the last member is harmless
            pending = handle.read(_READ_BYTES)
            continue
        if not started:
            if len(pending) < len(_GZIP_MAGIC):
                pending += handle.read(_READ_BYTES)
            if not pending.startswith(_GZIP_MAGIC):  # isal takes a few foreign bytes for a header cut short
                raise BadInput(f"{path}: damaged gzip: other bytes follow its end; fetch it again")
        started = True
        try:
            yield decoder.decompress(pending, _YIELD_BYTES)
        except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub calls it an instance
            raise BadInput(f"{path}: damaged gzip before offset {handle.tell()}: {error}; fetch it again") from error
        if decoder.eof:
            pending = decoder.unused_data
            decoder, started = isal_zlib.decompressobj(31), False
        else:
            pending = decoder.unconsumed_tail
        pending = pending or handle.read(_READ_BYTES)
    if started and not decoder.eof:  # output held back by the size limit when the input ran out
        yield decoder.flush()
    if started and not decoder.eof:
        raise BadInput(f"{path}: truncated gzip: it ends inside a member at offset {handle.tell()}; fetch it again")


def _zstd_frames(path: Path, handle: BinaryIO) -> Iterator[bytes]:
    """Every frame; not `stream_reader`, which takes a truncated file for a shorter one."""
    factory = zstandard.ZstdDecompressor()
    decoder: Any = None
    pending = handle.read(_READ_ZSTD_BYTES)
    while pending:
        if decoder is None:
            decoder = factory.decompressobj()
        try:
            yield decoder.decompress(pending)
        except zstandard.ZstdError as error:
            raise BadInput(f"{path}: damaged zstd before offset {handle.tell()}: {error}; fetch it again") from error
        pending = b""
        if decoder.eof:
            pending, decoder = decoder.unused_data, None
        pending = pending or handle.read(_READ_ZSTD_BYTES)
    if decoder is not None:
        raise BadInput(f"{path}: truncated zstd: it ends inside a frame at offset {handle.tell()}; fetch it again")


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger chunks."""
    ready: list[bytes] = []
    size = 0
    for piece in pieces:
        ready.append(piece)
        size += len(piece)
        if size >= _YIELD_BYTES:
            yield b"".join(ready)
            ready, size = [], 0
    if size:
        yield b"".join(ready)


def _ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Draw `chunks` in a thread, at most a few ahead; an error comes out where it would have."""
    line: queue.Queue[bytes | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
    left = threading.Event()

    def put(item: bytes | BaseException | None) -> bool:
        while not left.is_set():
            try:
                line.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def draw() -> None:
        try:
            for chunk in chunks:
                if not put(chunk):
                    return
            put(None)
        except BaseException as error:  # handed on to the consumer
            put(error)

    thread = threading.Thread(target=draw, name="decompress", daemon=True)
    thread.start()
    try:
        while (item := line.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        thread.join()

"""A file as a stream of plain bytes: plain, gzip, bgzip (multi-member gzip) or zstd, recognised by its first bytes.

Decompression runs in its own thread (two threads for bgzip), a few pieces ahead of the consumer, and releases the
interpreter lock.
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
from .file_kinds import GZIP_MAGIC, TWOBIT_MAGICS, ZSTD_MAGICS, check_text
from .input_file import open_input

_READ_BYTES = 2**18  # small, because the decoder copies the unread rest at every gzip member
_READ_ZSTD_BYTES = 2**12  # bounds the output of one call: a zstd block of a few bytes may decode to 128 KiB
_YIELD_BYTES = 2**20  # fits the CPU cache; with four times as much, scanning takes 1.5 times as long
_PIECES_AHEAD = 2
_MOST_WINDOW_BYTES = 2**31  # of `zstd --long=31`; the default, 2**27, refuses files of --long=28 and more


def read_plain(path: Path) -> Iterator[bytes]:
    """The decompressed content in pieces of at most about 4 MiB, so memory stays bounded.

    Raises:
        BadInput: the file is missing, unreadable, empty, truncated, damaged, or of a kind that no reader takes.
    """
    try:
        with open_input(path) as handle:
            head = handle.read(HEADER_BYTES)
            handle.seek(0)
            if not head:
                raise BadInput(f"{path}: the file is empty")
            packed = head.startswith((GZIP_MAGIC, *ZSTD_MAGICS))
            pieces = filter(None, _unpacked(path, handle, head) if packed else _pieces(handle))
            if first := next(pieces, None):
                check_text(path, first, unpacked=packed)
                yield first
            yield from pieces
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def first_piece(path: Path) -> bytes:
    """The first piece of `read_plain`.

    Raises:
        BadInput: as `read_plain`, or nothing is compressed in the file.
    """
    piece = next(read_plain(path), b"")
    if not piece:
        raise BadInput(f"{path}: the file is empty")
    return piece


def is_twobit(path: Path) -> bool:
    """Whether the file starts with the signature of .2bit.

    Raises:
        BadInput: the file cannot be opened.
    """
    with open_input(path) as handle:
        return handle.read(4) in TWOBIT_MAGICS


def _pieces(handle: BinaryIO) -> Iterator[bytes]:
    while piece := handle.read(_YIELD_BYTES):
        yield piece


def _unpacked(path: Path, handle: BinaryIO, head: bytes) -> Iterator[bytes]:
    if is_bgzip(head):
        end = yield from decompress_members(handle)
        # the rest: nothing, plain gzip, or an error
        yield from _ahead(_joined(_gzip_members(path, handle, unfinished=not _ends_empty(handle, end))))
    elif head.startswith(GZIP_MAGIC):
        yield from _ahead(_joined(_gzip_members(path, handle)))
    else:
        yield from _ahead(_joined(_zstd_frames(path, handle)))


def _ends_empty(handle: BinaryIO, end: int) -> bool:
    """Whether the bgzip member before offset `end` is empty; moves the handle to `end`."""
    handle.seek(max(0, end - 4))
    return handle.read(min(4, end)) == bytes(4)  # a member ends with the size of its content


def _gzip_members(path: Path, handle: BinaryIO, *, unfinished: bool = False) -> Iterator[bytes]:
    """The content of every member; `zlib.decompress` alone would silently stop after the first member.

    Args:
        unfinished: whether the member before the handle's position is of bgzip and has content. The last member of a
            bgzip file is empty, so a file that was cut between two members is noticed.
    """
    decoder = isal_zlib.decompressobj(31)
    started = bgzip = False
    pending = handle.read(_READ_BYTES)
    while pending:
        if not started and not pending.strip(b"\0"):  # zero padding after the last member is harmless
            pending = handle.read(_READ_BYTES)
            continue
        if not started:
            if len(pending) < HEADER_BYTES:
                pending += handle.read(_READ_BYTES)
            if not pending.startswith(GZIP_MAGIC):  # isal would take a few foreign bytes for a truncated header
                offset = handle.tell() - len(pending)
                raise BadInput(f"{path}: damaged gzip: foreign bytes follow its end at offset {offset}; fetch it again")
            bgzip, unfinished = is_bgzip(pending[:HEADER_BYTES]), False
        started = True
        try:
            content = decoder.decompress(pending, _YIELD_BYTES)
        except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub calls it an instance
            raise BadInput(f"{path}: damaged gzip before offset {handle.tell()}: {error}; fetch it again") from error
        unfinished = unfinished or (bgzip and bool(content))
        yield content
        if decoder.eof:
            pending = decoder.unused_data
            decoder, started = isal_zlib.decompressobj(31), False
        else:
            pending = decoder.unconsumed_tail
        pending = pending or handle.read(_READ_BYTES)
    if started and not decoder.eof:  # the size limit held output back when the input ended
        yield decoder.flush()
    if started and not decoder.eof:
        raise BadInput(f"{path}: truncated gzip: file ends inside a member at offset {handle.tell()}; fetch it again")
    if unfinished:
        raise BadInput(
            f"{path}: truncated bgzip: the empty block that ends a bgzip file is missing at offset {handle.tell()}; "
            "fetch it again, or compress it again with bgzip"
        )


def _zstd_frames(path: Path, handle: BinaryIO) -> Iterator[bytes]:
    """The content of every frame; `stream_reader` would not notice that a file is truncated."""
    factory = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
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
        raise BadInput(f"{path}: truncated zstd: file ends inside a frame at offset {handle.tell()}; fetch it again")


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
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


def _ahead(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Draw `pieces` in a thread, at most a few ahead; an error is raised to the consumer at its place in the order."""
    line: queue.Queue[bytes | BaseException | None] = queue.Queue(_PIECES_AHEAD)
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
            for piece in pieces:
                if not put(piece):
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

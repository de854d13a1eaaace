"""A file as a stream of plain bytes: plain, gzip and bgzip (multi-member gzip), told apart by their first bytes."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from failures import BadInput

_GZIP_MAGIC = b"\x1f\x8b"
_FOREIGN = {
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"PK\x03\x04": "a zip archive",
    b"\x43\x27\x41\x1a": "a .2bit file",
    b"\x1a\x41\x27\x43": "a .2bit file",
}
_READ_BYTES = 2**18  # small, because each bgzip member copies what is left of the chunk
_YIELD_BYTES = 2**22


def read_plain(path: Path) -> Iterator[bytes]:
    """The decompressed content in chunks of at most about 4 MiB; memory stays bounded.

    Raises:
        BadInput: missing, unreadable, empty, truncated or damaged, or compressed in a way this does not read.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(8)
            handle.seek(0)
            if not head:
                raise BadInput(f"{path}: the file is empty; expected FASTA")
            for magic, what in _FOREIGN.items():
                if head.startswith(magic):
                    raise BadInput(f"{path}: {what}; convert it to FASTA (.fa, .fa.gz or bgzip)")
            if head.startswith(_GZIP_MAGIC):
                yield from _gzip_members(path, handle)
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
            return not handle.read(2).startswith(_GZIP_MAGIC)
    except OSError:
        return False


def _gzip_members(path: Path, handle: BinaryIO) -> Iterator[bytes]:
    """Every member of the file: `zlib.decompress` alone would stop, silently, after the first."""
    decoder = zlib.decompressobj(31)
    started = False
    ready: list[bytes] = []
    ready_bytes = 0
    pending = handle.read(_READ_BYTES)
    while pending:
        if not started and not pending.strip(b"\0"):  # zero padding after the last member is harmless
            pending = handle.read(_READ_BYTES)
            continue
        started = True
        try:
            plain = decoder.decompress(pending, _YIELD_BYTES)
        except zlib.error as error:
            raise BadInput(f"{path}: damaged gzip before offset {handle.tell()}: {error}; fetch it again") from error
        ready.append(plain)
        ready_bytes += len(plain)
        if ready_bytes >= _YIELD_BYTES:
            yield b"".join(ready)
            ready, ready_bytes = [], 0
        if decoder.eof:
            pending = decoder.unused_data
            decoder, started = zlib.decompressobj(31), False
        else:
            pending = decoder.unconsumed_tail
        pending = pending or handle.read(_READ_BYTES)
    if started and not decoder.eof:  # output held back by the size limit when the input ran out
        ready.append(decoder.flush())
        started = not decoder.eof
    if ready:
        yield b"".join(ready)
    if started:
        raise BadInput(f"{path}: truncated gzip: it ends inside a member at offset {handle.tell()}; fetch it again")

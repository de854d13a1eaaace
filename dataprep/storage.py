"""Where the bytes of a corpus come from: local paths, or URLs (http, s3, gs, memory ...) through fsspec.

A local path is read with plain system calls; fsspec is imported only when a URL is met.
"""

import os
import re
from typing import Any

from failures import BadInput

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: `C:\` is not a scheme


class ShortRead(BadInput):
    """A file ended before the bytes that the index promises; the message names file, offset and counts."""


def is_url(location: str) -> bool:
    """Whether `location` is a URL rather than a local path (`file://` counts as a URL)."""
    return bool(_URL.match(location))


def join(root: str, name: str) -> str:
    """`name` inside the folder `root`, which is a path or a URL."""
    return f"{root.rstrip('/')}/{name}" if is_url(root) else os.path.join(root, name)


def exists(location: str) -> bool:
    """Whether a file or folder is there."""
    if not is_url(location):
        return os.path.exists(location)
    filesystem, path = _filesystem(location)
    return bool(filesystem.exists(path))


def read_bytes(location: str) -> bytes:
    """A whole small file.

    Raises:
        FileNotFoundError: nothing is there.
        BadInput: it is there but cannot be read.
    """
    try:
        if not is_url(location):
            with open(location, "rb") as handle:
                return handle.read()
        filesystem, path = _filesystem(location)
        return bytes(filesystem.cat_file(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(f"{location}: cannot be read: {error.strerror or error}") from error


def read_range(location: str, offset: int, length: int) -> bytes:
    """Exactly `length` bytes from `offset`.

    Raises:
        ShortRead: the file ends earlier.
        BadInput: no such file, or it cannot be read.
    """
    try:
        if is_url(location):
            filesystem, path = _filesystem(location)
            data = bytes(filesystem.cat_file(path, start=offset, end=offset + length))
        else:
            data = _read_local_range(location, offset, length)
    except FileNotFoundError as error:
        raise BadInput(f"{location}: no such file, but the index lists it; the corpus is incomplete") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"{location}: bytes {offset}-{offset + length} cannot be read: {reason}") from error
    if len(data) != length:
        raise ShortRead(
            f"{location}: {len(data)} bytes at offset {offset} where the index promises {length}; truncated"
        )
    return data


def _read_local_range(path: str, offset: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        data = os.pread(descriptor, length, offset)
        while len(data) < length:  # one pread returns at most 2 GiB and may be interrupted
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec  # here because a local corpus should not pay for it

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # an unknown scheme, or one whose package is not installed
        raise BadInput(f"{url}: {error}") from error

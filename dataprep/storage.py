"""Where the bytes of a corpus come from and go to: local paths, or URLs (http, s3, gs, memory ...) through fsspec.

A local path is read with plain system calls; fsspec is imported only when a URL is met. What fails at a URL is tried
again a few times, a little later each time, unless the answer was that the file is not there or not ours to touch.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from failures import BadInput, Failure

_T = TypeVar("_T")
_RETRY_AFTER_SECONDS = (0.3, 1.0, 3.0)
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
    return bool(_patiently(lambda: filesystem.exists(path)))


def size_of(location: str) -> int:
    """Bytes of a file; -1 if there is none."""
    if not is_url(location):
        return os.path.getsize(location) if os.path.isfile(location) else -1
    filesystem, path = _filesystem(location)
    filesystem.invalidate_cache()
    try:
        return int(_patiently(lambda: filesystem.size(path)))
    except FileNotFoundError:
        return -1


def names_in(url: str) -> list[str]:
    """Names of the files and folders directly under a URL; [] if there are none."""
    filesystem, path = _filesystem(url)
    filesystem.invalidate_cache()
    try:
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False))
    except FileNotFoundError:
        return []


def upload(path: Path, url: str) -> None:
    """Copy a local file to a URL; object stores show it complete or not at all.

    Raises:
        Failure: it cannot be written there.
    """
    filesystem, target = _filesystem(url)
    try:
        _patiently(lambda: filesystem.put_file(str(path), target))
    except OSError as error:
        raise Failure(f"{url}: cannot be written: {error.strerror or error}; mend that and run this again") from error


def remove(url: str) -> None:
    """Delete the file at a URL, if it is there."""
    filesystem, path = _filesystem(url)
    if filesystem.exists(path):
        filesystem.rm_file(path)


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
        return bytes(_patiently(lambda: filesystem.cat_file(path)))
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
            data = bytes(_patiently(lambda: filesystem.cat_file(path, start=offset, end=offset + length)))
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


def _patiently(call: Callable[[], _T]) -> _T:
    for seconds in _RETRY_AFTER_SECONDS:
        try:
            return call()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(seconds)
    return call()


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec  # here because a local corpus should not pay for it

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # an unknown scheme, or one whose package is not installed
        raise BadInput(f"{url}: {error}") from error

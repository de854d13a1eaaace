"""Reads and writes the files of a corpus: local paths, or URLs (http, s3, gs, memory ...) through fsspec.

A local path is read with plain system calls; fsspec is imported only for a URL. A request to a URL that fails, stalls
or returns too few bytes is repeated with growing waits, unless the file is missing or access to it is denied.
"""

import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dnachunker.foundations.failures import BadInput, Failure

_T = TypeVar("_T")
_RETRY_AFTER_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_STALL_SECONDS = 20.0  # an HTTP request without progress for this long is repeated
_PASSING_STATUS = (408, 425, 429)  # HTTP statuses below 500 that mean: try again later
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: `C:\` is not a scheme


class ShortRead(BadInput):
    """A file ended before the bytes that the index promises; the message names file, offset and counts."""


class MissingFile(BadInput):
    """A file that the index lists does not exist."""


def is_url(location: str) -> bool:
    """Whether `location` is a URL rather than a local path (`file://` counts as a URL)."""
    return bool(_URL.match(location))


def join(root: str, name: str) -> str:
    """`name` inside the folder `root`, which is a path or a URL."""
    return f"{root.rstrip('/')}/{name}" if is_url(root) else os.path.join(root, name)


def exists(location: str) -> bool:
    """Whether a file or folder exists."""
    if not is_url(location):
        return os.path.exists(location)
    filesystem, path = _filesystem(location)
    return bool(_patiently(lambda: filesystem.exists(path)))


def size_of(location: str) -> int:
    """Size of a file in bytes; -1 if it does not exist."""
    if not is_url(location):
        return os.path.getsize(location) if os.path.isfile(location) else -1
    filesystem, path = _filesystem(location)
    filesystem.invalidate_cache()
    try:
        return int(_patiently(lambda: filesystem.size(path)))
    except FileNotFoundError:
        return -1


def names_in(location: str) -> list[str]:
    """Names of the files and folders directly in a folder; [] if there are none."""
    if not is_url(location):
        return sorted(os.listdir(location)) if os.path.isdir(location) else []
    filesystem, path = _filesystem(location)
    filesystem.invalidate_cache()
    try:
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False))
    except FileNotFoundError:
        return []


def upload(path: Path, url: str) -> None:
    """Copy a local file to a URL; an object store shows the file complete or not at all.

    Raises:
        Failure: the file cannot be written there.
    """
    filesystem, target = _filesystem(url)
    try:
        _patiently(lambda: filesystem.put_file(str(path), target))
    except OSError as error:
        raise Failure(f"{url}: cannot be written: {error.strerror or error}; fix this and run again") from error


def download(location: str, path: Path) -> None:
    """Copy a file to a local path; what is there after an error may be incomplete.

    Raises:
        OSError: the file cannot be read, or not be written here.
    """
    if is_url(location):
        filesystem, source = _filesystem(location)
        _patiently(lambda: filesystem.get_file(source, str(path)))
    else:
        shutil.copyfile(location, path)


def remove(url: str) -> None:
    """Delete the file at a URL, if it exists."""
    filesystem, path = _filesystem(url)
    if filesystem.exists(path):
        filesystem.rm_file(path)


def read_bytes(location: str) -> bytes:
    """The content of a small file.

    Raises:
        FileNotFoundError: the file does not exist.
        BadInput: the file exists but cannot be read.
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
        MissingFile: no such file.
        BadInput: the file cannot be read.
    """
    data = _read_up_to(location, offset, length, least=length)
    if len(data) != length:
        raise ShortRead(
            f"{location}: {len(data)} bytes at offset {offset} where the index promises {length}; the file is truncated"
        )
    return data


def read_to_end(location: str, offset: int, expected: int) -> bytes:
    """The bytes from `offset` to the end of a file, which must be `expected` bytes.

    Raises:
        ShortRead: there are fewer or more bytes.
        MissingFile: no such file.
        BadInput: the file cannot be read.
    """
    data = _read_up_to(location, offset, expected + 1, least=expected)
    if len(data) != expected:
        found = "more" if len(data) > expected else f"only {offset + len(data)}"
        raise ShortRead(
            f"{location}: the index promises {offset + expected} bytes and there are {found}; the file was altered"
        )
    return data


def _read_up_to(location: str, offset: int, length: int, *, least: int) -> bytes:
    """At most `length` bytes of a file from `offset`; a request to a URL that gives fewer than `least` is repeated."""
    try:
        if not is_url(location):
            return _read_local_range(location, offset, length)
        filesystem, path = _filesystem(location)

        def ask() -> bytes:
            try:
                data = bytes(filesystem.cat_file(path, start=offset, end=offset + length))
            except Exception as error:
                if getattr(error, "status", None) == 416:  # the file ends before `offset`
                    return b""
                raise
            if len(data) < least:
                raise _Short(data)
            if len(data) > length:
                raise BadInput(
                    f"{location}: the server ignores byte ranges; copy the corpus to a disk or to another server"
                )
            return data

        try:
            return _patiently(ask)
        except _Short as short:
            return short.data
    except FileNotFoundError as error:
        raise MissingFile(f"{location}: no such file, but the index lists it; the corpus is incomplete") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"{location}: bytes {offset}-{offset + length} cannot be read: {reason}") from error


class _Short(OSError):
    def __init__(self, data: bytes) -> None:
        super().__init__("short answer")
        self.data = data


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
    """The result of `call`, repeated after transient errors; HTTP errors are raised as OSError."""
    for seconds in (*_RETRY_AFTER_SECONDS, None):
        try:
            return call()
        except Exception as error:
            if not _is_passing(error) or seconds is None:
                if isinstance(error, OSError) or not _is_of_http(error):
                    raise
                raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(seconds * random.uniform(0.5, 1.0))  # so that many ranks do not retry at the same time
    raise AssertionError("unreachable")


def _is_passing(error: Exception) -> bool:
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        return status >= 500 or status in _PASSING_STATUS
    return isinstance(error, OSError) or _is_of_http(error)


def _is_of_http(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "aiohttp"  # not all errors of aiohttp are OSErrors


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec  # slow to import, and a local corpus does not need it

    try:
        if url.startswith(("http://", "https://")):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, connect=_STALL_SECONDS, sock_read=_STALL_SECONDS)
            return fsspec.core.url_to_fs(url, client_kwargs={"timeout": timeout})
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # an unknown scheme, or the scheme's package is not installed
        raise BadInput(f"{url}: {error}") from error

"""Downloads one URL into one local file: resumes by byte range, retries with back-off, detects incomplete files."""

import errno
import http.client
import json
import os
import random
import ssl
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.progress import Progress

_ATTEMPTS = 6  # most attempts in a row without progress
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds between attempts, doubled each time
_TIMEOUT = 30.0  # seconds without a byte
_READ_BYTES = 2**20
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _Transient(Exception):
    """An error after which another attempt makes sense; `wait` is the server's own waiting time in seconds, if any."""

    def __init__(self, what: object, wait: float | None = None) -> None:
        super().__init__(str(what))
        self.wait = wait


@dataclass(frozen=True)
class _Version:
    """The version of the file on the server that a partial file belongs to.

    Attributes:
        tag: the server's ETag or date of change; "" if the server gives none.
        total: size of the whole file in bytes, if the server gives it.
    """

    tag: str = ""
    total: int | None = None


@dataclass(frozen=True)
class _Answer:
    body: Any  # an open binary file
    start: int  # offset of the body's first byte
    version: _Version


def download(url: str, part: Path, *, quiet: bool = False) -> None:
    """Complete the partial file `part`; continues a download that an earlier call left unfinished.

    The file `part` + `.version` records which version of the server's file `part` is the beginning of. If the server's
    file has changed since, the download starts over.

    Raises:
        BadInput: there is no such file, or the server denies access to it.
        Failure: the server or the network failed too often in a row, or the disk is full; the partial file is kept.
    """
    failed = 0
    with _progress(url, part, quiet) as progress:
        while True:
            before = _size(part)
            try:
                _transfer(url, part, progress)
                _version_file(part).unlink(missing_ok=True)
                return
            except _Transient as error:
                failed = 1 if _size(part) > before else failed + 1
                if failed >= _ATTEMPTS:
                    raise Failure(
                        f"{shown(url)}: {error}, {failed} times in a row; the partial file is kept: run this again to "
                        "continue"
                    ) from error
                wait = min(_FIRST_WAIT * 2 ** (failed - 1) if error.wait is None else error.wait, _LONGEST_WAIT)
                wait *= 1 + random.random() / 4  # many clients that failed together should not retry together
                if not quiet:
                    print(f"{shown(url)}: {error}; trying again in {wait:.0f} s", file=sys.stderr, flush=True)
                time.sleep(wait)


def read_small(url: str, limit: int = 2**24) -> bytes | None:
    """The first `limit` bytes of a small file such as a list of checksums; None if there is no such file.

    Raises:
        Failure: the server or the network failed too often in a row.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _open(url, 0, _Version()) as answer:
                data = _read(answer.body, limit)
                total = answer.version.total
                if total is not None and len(data) < min(total, limit):  # a truncated list would lack checksums
                    raise _Transient(f"the connection ended after {len(data):,} of {total:,} bytes")
                return data
        except BadInput:
            return None
        except _Transient as error:
            if attempt == _ATTEMPTS:
                raise Failure(f"{shown(url)}: {error}, {attempt} times in a row; run this again later") from error
            time.sleep(min(_FIRST_WAIT * 2 ** (attempt - 1) if error.wait is None else error.wait, _LONGEST_WAIT))
    raise AssertionError("unreachable")


def shown(url: str) -> str:
    """The URL for messages and records: without user, password, query and fragment, because they may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _transfer(url: str, part: Path, progress: Progress) -> None:
    have = _size(part)
    known = _read_version(part)
    if have and known.total is not None and have == known.total:
        return
    with _open(url, have, known) as answer:
        # append only if the answer continues the same version of the file
        continues = answer.start == have and (not have or _same(known, answer.version))
        if answer.start and not continues:
            part.unlink(missing_ok=True)
            raise _Transient("the file on the server changed during the download; starting over", 0.0)
        try:
            _version_file(part).write_text(json.dumps(asdict(answer.version)), "ascii")
            with open(part, "ab" if answer.start else "wb") as target:
                progress.restart(answer.start, answer.version.total)
                while piece := _read(answer.body, _READ_BYTES):
                    target.write(piece)
                    progress.update(len(piece))
                target.flush()
                os.fsync(target.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Failure(f"the disk is full ({part}); free space and run this again") from error
    total = answer.version.total
    if total is not None and _size(part) != total:
        if _size(part) > total:
            part.unlink()
        raise _Transient(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _same(known: _Version, now: _Version) -> bool:
    return known == now and (bool(known.tag) or known.total is not None)


@contextmanager
def _open(url: str, offset: int, known: _Version) -> Iterator[_Answer]:
    """The content from `offset`, or from 0 if the server does not support byte ranges.

    Raises:
        BadInput: no such file, or access to it is denied.
        _Transient: any other error.
    """
    scheme = urlsplit(url).scheme
    with _open_http(url, offset, known) if scheme in ("http", "https") else _open_fsspec(url, offset) as answer:
        yield answer


@contextmanager
def _open_http(url: str, offset: int, known: _Version) -> Iterator[_Answer]:
    headers = {"User-Agent": "dnachunker", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if known.tag:
            headers["If-Range"] = known.tag
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    try:
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=host, fragment="")), headers=headers)
        if user:  # only for this host, not for a host it redirects to
            token = b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the server's file ends before the offset: the partial file belongs to another version
            yield _Answer(_Empty(), -1, _Version())
            return
        if error.code in _TRANSIENT:
            raise _Transient(f"HTTP {error.code}", _retry_after(error.headers)) from error
        raise BadInput(f"{shown(url)}: HTTP {error.code} {error.reason}; check the name or address") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise BadInput(f"{shown(url)}: the server's certificate is not valid: {reason.verify_message}") from error
        raise _Transient(reason or type(error).__name__) from error
    except ValueError as error:
        raise BadInput(f"{shown(url)}: not a URL: {error}") from error
    with response:
        tag = response.headers.get("ETag", "")
        tag = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
        start, total = 0, _number(response.headers.get("Content-Length"))
        if response.status == 206:
            span, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            first = _number(span.partition("-")[0])
            start, total = -1 if first is None else first, _number(whole)
        yield _Answer(response, start, _Version(tag, total))


@contextmanager
def _open_fsspec(url: str, offset: int) -> Iterator[_Answer]:
    import fsspec  # slow to import; only object stores need it

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        facts = filesystem.info(path)
        total = facts.get("size")
        tag = str(facts.get("ETag") or facts.get("etag") or facts.get("mtime") or "")
        body = filesystem.open(path, "rb")
        body.seek(offset)
    except (ImportError, ValueError, FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise BadInput(f"{shown(url)}: {error}") from error
    except OSError as error:
        raise _Transient(error) from error
    with body:
        yield _Answer(body, offset, _Version(tag, total))


class _Empty:
    def read(self, _: int) -> bytes:
        return b""


def _read(body: Any, size: int) -> bytes:
    try:
        return bytes(body.read(size))
    except (OSError, http.client.HTTPException) as error:
        raise _Transient(error or type(error).__name__) from error


def _retry_after(headers: Any) -> float | None:
    seconds = _number(headers.get("Retry-After"))
    return None if seconds is None else float(seconds)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 18 else None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _read_version(part: Path) -> _Version:
    try:
        return _Version(**json.loads(_version_file(part).read_text("ascii")))
    except (OSError, ValueError, TypeError):
        return _Version()


def _progress(url: str, part: Path, quiet: bool) -> Progress:
    return Progress(f"fetching {urlsplit(url).path.rpartition('/')[2]}", _size(part), "B", quiet=quiet)

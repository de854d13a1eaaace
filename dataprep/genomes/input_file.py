"""Opens the files that users name. Most of them are read more than once, so each has to be a regular file."""

import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

from dnachunker.foundations.failures import BadInput

_OTHERS = {
    stat.S_IFIFO: "a pipe, which can be read only once",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def is_empty(path: Path) -> bool:
    """Whether the regular file at `path` has no byte.

    Raises:
        BadInput: as `check_regular`.
    """
    return check_regular(path).st_size == 0


def check_regular(path: Path) -> os.stat_result:
    """The facts about the regular file at `path`, which is not opened.

    Raises:
        BadInput: there is none.
    """
    try:
        facts = os.stat(path)
        mode = facts.st_mode
        if stat.S_ISDIR(mode):
            raise BadInput(f"{path}: a folder, not a regular file; name a file in it")
        if not stat.S_ISREG(mode):
            what = _OTHERS.get(stat.S_IFMT(mode), "something else")
            raise BadInput(f"{path}: {what}, not a regular file; write the content to a file first and name that file")
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise BadInput(f"{str(path)!r}: no path of a file: {error}") from error
    return facts


def open_input(path: Path) -> BufferedReader:
    """The file at `path`, opened for reading bytes.

    Raises:
        BadInput: there is no such file, it cannot be read, or it is no regular file; a pipe is not waited for.
    """
    check_regular(path)  # before opening, since opening a pipe waits for its writer
    try:
        return open(path, "rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def hash_file(path: Path) -> tuple[str, int]:
    """sha256 and size in bytes of a user's file.

    Raises:
        BadInput: as `open_input`.
    """
    try:
        with open_input(path) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest(), os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error

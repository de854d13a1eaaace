"""Reads text files that users bring, compressed or not, line by line."""

from collections.abc import Iterator
from pathlib import Path

from dnachunker.foundations.failures import BadInput

from .decompress import read_plain
from .file_kinds import BYTE_ORDER_MARK
from .input_file import is_empty


def byte_lines(path: Path, longest: int | None = None) -> Iterator[bytes]:
    """The lines of a text file, decompressed, without line ends (LF or CRLF) and without a byte order mark.

    An empty file has no lines.

    Args:
        longest: most bytes of a line.

    Raises:
        BadInput: as `read_plain`; a line is too long or holds a NUL; lines end in bare carriage returns.
    """
    if is_empty(path):
        return
    rest: list[bytes] = [b""]  # pieces of the line that is not complete yet
    number = 0
    for piece in read_plain(path):
        first, *lines = piece.split(b"\n")
        rest.append(first)
        if lines:
            lines = [b"".join(rest), *lines]
            if not number:
                lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
            rest = [lines.pop()]
            if any(letter in piece or letter in lines[0] for letter in (b"\r", b"\0")):
                lines = [_checked(path, number + at, line) for at, line in enumerate(lines, 1)]
            number += len(lines)
            yield from lines
        if longest is not None and sum(map(len, rest)) > longest:
            _checked(path, number + 1, b"".join(rest))
            raise BadInput(f"{path}, line {number + 1}: longer than {longest:,} bytes; is this the right file?")
    if last := b"".join(rest):
        yield _checked(path, number + 1, last if number else last.removeprefix(BYTE_ORDER_MARK))


def text_lines(path: Path, errors: str = "strict") -> Iterator[str]:
    """The lines of a UTF-8 file (plain, gzip, bgzip or zstd) without line ends and without a byte order mark.

    Args:
        errors: what to do with bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        BadInput: as `byte_lines`, or not UTF-8.
    """
    for number, line in enumerate(byte_lines(path), 1):
        try:
            yield line.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: line {number}: not UTF-8 text; save the file as UTF-8") from error


def _checked(path: Path, number: int, line: bytes) -> bytes:
    """The line without carriage returns at its end."""
    line = line.rstrip(b"\r")
    if b"\0" in line:
        raise BadInput(f"{path}, line {number}: holds a NUL byte; the file is binary or damaged")
    if b"\r" in line:
        raise BadInput(f"{path}, line {number}: lines end in bare carriage returns; convert them to LF")
    return line

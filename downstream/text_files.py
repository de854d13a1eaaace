"""Reads text files that users bring, compressed or not."""

from collections.abc import Iterator
from pathlib import Path

from dnachunker.dataprep.genomes.decompress import read_lines
from dnachunker.foundations.failures import BadInput


def text_lines(path: Path, errors: str = "strict") -> Iterator[str]:
    """The lines of a UTF-8 file (plain, gzip, bgzip or zstd) without line ends and without a byte order mark.

    Args:
        errors: what to do with bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        BadInput: the file is missing or damaged, or not UTF-8.
    """
    for number, line in enumerate(read_lines(path), 1):
        try:
            yield line.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: line {number}: not UTF-8 text; save the file as UTF-8") from error

"""Random access to a plain FASTA file where it lies, through pyfaidx and an index that is never beside the user's file.

The scan that checks the file also learns where its lines are; a file whose lines form a grid gets a `.fai`.
"""

import os
from pathlib import Path

import numpy as np
import pyfaidx


class LineGrid:
    """Follows the line breaks of each record; the rows of a `.fai`, if all lines of each record are equally long.

    Attributes:
        rows: (name, bases, offset of the first base, bases a line, bytes a line) of each record with sequence.
        uniform: False once a line is out of place; the rows are then worthless.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int, int, int]] = []
        self.uniform = True
        self._start = -1  # file offset of this record's first base
        self._width = 0  # bytes a line, once the first has ended
        self._ended = 0  # full lines so far
        self._last_letter = -1  # file offset
        self._short_line = False  # a line shorter than the others: it must be the last
        self._crlf = False

    def add(self, offset: int, segment: bytes) -> None:
        """The next bytes of the record, which lie at file offset `offset`."""
        if not segment or not self.uniform:
            return
        if self._start < 0:
            self._start = offset
        trimmed = len(segment.rstrip())
        if trimmed:
            if self._short_line:
                self.uniform = False
                return
            self._last_letter = offset + trimmed - 1
        breaks = np.flatnonzero(np.frombuffer(segment, np.uint8) == ord("\n")) + offset
        if not breaks.size:
            return
        if not self._width:
            self._width = int(breaks[0]) - self._start + 1
            # the byte before the first break may be in the segment before: then a grid of LF is assumed, and the
            # length check of `close` fails if it was CRLF
            first = int(breaks[0]) - offset
            self._crlf = first > 0 and segment[first - 1] == ord("\r")
        expected = self._start + self._width * (self._ended + 1 + np.arange(breaks.size)) - 1
        in_place = breaks == expected
        self._ended += breaks.size
        if not in_place[:-1].all() or self._short_line:
            self.uniform = False
        elif not in_place[-1]:
            self._short_line = bool(breaks[-1] < expected[-1])
            self.uniform = self._short_line and int(breaks[-1]) - offset >= trimmed

    def close(self, name: str, length: int) -> None:
        """The record `name` ended after `length` bases."""
        if length and self.uniform:
            ending = (2 if self._crlf else 1) if self._width else 0
            line = (self._width or length) - ending
            span = self._last_letter + 1 - self._start
            # as many bytes as the grid predicts: nothing but bases and line ends lies between first and last base
            self.uniform = line > 0 and span == length + (length - 1) // line * ending and name.isascii()
            self.rows.append((name, length, self._start, line, line + (ending or 1)))
        self._start = self._last_letter = -1
        self._width = self._ended = 0
        self._short_line = self._crlf = False

    def write(self, path: Path) -> None:
        """The rows as a `.fai`."""
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in self.rows), "ascii")


_handles: dict[tuple[int, str], pyfaidx.Faidx] = {}


def read_letters(fasta: str, index: str, contig: str, start: int, end: int) -> bytes:
    """Letters start..end (0-based, half-open) of `contig`, case kept.

    pyfaidx handles share a file position with forked children, so each process opens its own.
    """
    key = (os.getpid(), index)
    if key not in _handles:
        _handles.clear()  # one genome at a time; shards are cut genome by genome
        _handles[key] = pyfaidx.Faidx(fasta, indexname=index, as_raw=True, build_index=False, rebuild=False)
    letters: str = _handles[key].fetch(contig, start + 1, end)
    return letters.encode("latin-1")

"""The loops over every base of a genome, compiled by numba: letters to codes, codes to 2 bits, runs, GC.

The loops release the interpreter lock, so threads of one process run them in parallel. The first call after an install
compiles them into numba's cache.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from dnachunker.model.alphabet import CODE_N

from .packed_codes import PACKED_REPEAT_BIT

SKIPPED = 0x40  # in a letter table: a byte that stands for no base
EDGE_FLAG_BITS = 4  # an edge is `position << EDGE_FLAG_BITS | flags`
_FLAGS = np.uint8(CODE_N | PACKED_REPEAT_BIT)
_FLAGS_OF_8 = np.uint64(0x0101010101010101) * np.uint64(_FLAGS)
_ONES = np.uint64(0x0101010101010101)
_PIECE = 2**14  # bytes of FASTA that are translated at a time, in the first-level cache
_OTHER = 0x80
_LINE_FEED = np.uint8(ord("\n"))
_A, _C, _G, _T, _N = (np.uint8(ord(letter)) for letter in "ACGTN")

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def translate(
    letters: NDArray[np.uint8], table: NDArray[np.uint8], codes: NDArray[np.uint8], width: int, column: int
) -> tuple[int, int, int, int, int]:
    """Look every byte up in the (256,) `table` and write its value, except where the value is `SKIPPED`.

    Fast path: where all lines have the length of the last one and hold only A, C, G, T and N, codes are computed,
    several letters at once. Hence `table` must hold `packed_codes` for these letters, and skip LF.

    Args:
        codes: at least as long as `letters`; its start is overwritten.
        width: length of the last whole line, in letters; 0 at the start of a sequence.
        column: letters already read of the current line; 0 at the start of a sequence.

    Returns:
        Number of codes written, bitwise or of all values looked up, number of line ends, next width, next column.
    """
    count = lines = 0
    seen = np.uint8(0)
    flat = np.empty(_PIECE, np.uint8)
    for first in range(0, letters.size, _PIECE):
        piece = letters[first : first + _PIECE]
        others = _to_codes(piece, flat)
        ends = 0  # line ends found where they are if every line is `width` long
        end = width - column
        while 0 <= end < piece.size and piece[end] == _LINE_FEED:
            ends += 1
            end += width + 1
        if ends == others:
            start, end = 0, width - column
            for _ in range(ends):
                count += _copy(flat[start:end], codes[count:])
                start = end + 1
                end = start + width
            count += _copy(flat[start : piece.size], codes[count:])
            column = piece.size - start if ends else column + piece.size
            lines += ends
            continue
        for letter in piece:
            value = table[letter]
            codes[count] = value
            count += value != SKIPPED
            seen |= value
            column += 1
            if letter == _LINE_FEED:
                width, column = column - 1, 0
                lines += 1
    return count, int(seen), lines, width, column


@_compiled
def _to_codes(letters: NDArray[np.uint8], codes: NDArray[np.uint8]) -> int:
    """Write the packed code of every letter in ACGTN, in either case; returns how many other bytes there are."""
    for i in range(letters.size):
        letter = letters[i]
        upper = letter & np.uint8(0xDF)
        two_bits = letter >> np.uint8(1) & np.uint8(3)  # A 0, C 1, T 2, G 3
        code = two_bits ^ two_bits >> np.uint8(1)
        is_n = upper == _N
        known = (upper == _A) | (upper == _C) | (upper == _G) | (upper == _T) | is_n
        soft = letter >> np.uint8(2) & np.uint8(PACKED_REPEAT_BIT)  # ASCII bit 0x20 marks lower case
        codes[i] = (np.uint8(CODE_N) if is_n else code) | soft | (np.uint8(0) if known else np.uint8(_OTHER))
    others = np.uint64(0)
    words = codes[: letters.size // 8 * 8].view(np.uint64)
    for i in range(words.size):
        others += (words[i] >> np.uint64(7) & _ONES) * _ONES >> np.uint64(56)
    for i in range(8 * words.size, letters.size):
        others += np.uint64(codes[i] >> np.uint8(7))
    return int(others)


@_compiled
def _copy(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> int:
    for i in range(source.size):  # compiles to wide moves; for a line, a slice assignment takes three times as long
        target[i] = source[i]
    return source.size


@_compiled
def count_gc(bases: NDArray[np.uint8]) -> int:
    """Number of C and G in 2-bit bytes; N and unused bits of the last byte are stored as A, so they do not count."""
    low = np.uint64(0x5555555555555555)  # a base is C or G if its two bits differ
    pairs, nibbles = np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
    total = np.uint64(0)
    words = bases[: bases.size // 8 * 8].view(np.uint64)
    for i in range(words.size):
        found = (words[i] ^ words[i] >> np.uint64(1)) & low
        found = (found & pairs) + (found >> np.uint64(2) & pairs)
        found = found + (found >> np.uint64(4)) & nibbles
        total += found * _ONES >> np.uint64(56)
    for i in range(8 * words.size, bases.size):
        for shift_by in range(0, 8, 2):
            pair = bases[i] >> np.uint8(shift_by)
            total += np.uint64((pair ^ pair >> np.uint8(1)) & np.uint8(1))
    return int(total)


@_compiled
def pack(codes: NDArray[np.uint8], bases: NDArray[np.uint8], carry: int, carried: int) -> tuple[int, int, int]:
    """Pack codes into 2 bits each, first base in the high bits; continues the unfinished byte of the last call.

    Args:
        bases: at least codes.size // 4 + 1 bytes; its start is overwritten.
        carry: bits of the unfinished byte.
        carried: number of bases in `carry`, 0 to 3.

    Returns:
        Number of finished bytes, next carry, next carried.
    """
    head = min((4 - carried) % 4, codes.size)
    for i in range(head):
        carry = carry << 2 | codes[i] & 3
    carried += head
    count = 0
    if carried == 4:
        bases[0] = carry
        carry = carried = 0
        count = 1
    if head == codes.size:
        return count, carry, carried
    rest = codes[head:]
    three = np.uint8(3)
    whole = rest.size // 4
    for i in range(whole):
        j = 4 * i
        bases[count + i] = (
            (rest[j] & three) << np.uint8(6)
            | (rest[j + 1] & three) << np.uint8(4)
            | (rest[j + 2] & three) << np.uint8(2)
            | (rest[j + 3] & three)
        )
    for i in range(4 * whole, rest.size):
        carry = carry << 2 | rest[i] & 3
    return count + whole, carry, rest.size - 4 * whole


@_compiled
def find_edges(codes: NDArray[np.uint8], start: int, flags: int, edges: NDArray[np.int64]) -> tuple[int, int]:
    """Find the positions where N or soft-mask begins or ends.

    Args:
        codes: packed codes of the bases from position `start` on.
        flags: CODE_N, PACKED_REPEAT_BIT, both or 0: the flags of the base before the first one.
        edges: at least as long as `codes`; its start is overwritten with `position << EDGE_FLAG_BITS | flags there`.

    Returns:
        Number of edges, and the flags of the last base.
    """
    count = 0
    last = np.uint8(flags)
    words = codes[: codes.size // 8 * 8].view(np.uint64)
    for w in range(words.size):
        if words[w] & _FLAGS_OF_8 != np.uint64(last) * _ONES:  # at least one of eight bases has other flags
            for i in range(8 * w, 8 * w + 8):
                if codes[i] & _FLAGS != last:
                    last = codes[i] & _FLAGS
                    edges[count] = (start + i) << EDGE_FLAG_BITS | np.int64(last)
                    count += 1
    for i in range(8 * words.size, codes.size):
        if codes[i] & _FLAGS != last:
            last = codes[i] & _FLAGS
            edges[count] = (start + i) << EDGE_FLAG_BITS | np.int64(last)
            count += 1
    return count, int(last)


@_compiled
def shift(bases: NDArray[np.uint8], skipped: int, shifted: NDArray[np.uint8]) -> None:
    """Write `bases` without the first `skipped` (1 to 3) bases; `shifted` may be a byte shorter than `bases`."""
    left = np.uint8(2 * skipped)
    right = np.uint8(8 - 2 * skipped)
    for i in range(min(shifted.size, bases.size - 1)):
        shifted[i] = bases[i] << left | bases[i + 1] >> right
    if shifted.size == bases.size:
        shifted[-1] = bases[-1] << left

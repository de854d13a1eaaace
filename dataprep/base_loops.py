"""The loops over every base of a genome, compiled by numba: letters to codes, codes to 2 bits, k-mers to a sample.

They hold no interpreter lock, so that threads of one process run them side by side. The first call after an install
compiles them, once, into numba's cache.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from dataprep.packed_codes import PACKED_REPEAT_BIT
from model.alphabet import CODE_N

SKIPPED = 0x40  # in a letter table: a byte that stands for no base
EDGE_FLAG_BITS = 4  # an edge is `position << EDGE_FLAG_BITS | flags`
_FLAGS = np.uint8(CODE_N | PACKED_REPEAT_BIT)
_FLAGS_OF_8 = np.uint64(0x0101010101010101) * np.uint64(_FLAGS)
_ONES = np.uint64(0x0101010101010101)
_KMER = np.uint64(2**62 - 1)  # the bits of a 31-mer
_SCRAMBLE_LOW_16 = np.uint64(0x9E37 << 48)  # a product with it depends on the other factor's low 16 bits alone

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def translate(letters: NDArray[np.uint8], table: NDArray[np.uint8], codes: NDArray[np.uint8]) -> tuple[int, int]:
    """Look every byte up in the (256,) `table`, leaving out those that are `SKIPPED`.

    Args:
        codes: at least as long as `letters`; its start is overwritten.

    Returns:
        How many codes were written, and the bitwise or of all values looked up.
    """
    count = 0
    seen = np.uint8(0)
    for letter in letters:
        value = table[letter]
        codes[count] = value
        count += value != SKIPPED
        seen |= value
    return count, int(seen)


@_compiled
def pack(codes: NDArray[np.uint8], bases: NDArray[np.uint8], carry: int, carried: int) -> tuple[int, int, int]:
    """Two bits a code, first base in the high bits, going on where an earlier call has stopped.

    Args:
        bases: at least codes.size // 4 + 1 bytes; its start is overwritten.
        carry, carried: the bits of the last, unfinished byte so far, and how many bases (0 to 3) they are.

    Returns:
        How many bytes are finished, and the next carry and carried.
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
    """Where N or soft-mask begins or ends.

    Args:
        codes: packed codes, of the bases from `start` on.
        flags: of the base before the first: CODE_N, PACKED_REPEAT_BIT, both or 0.
        edges: at least as long as `codes`; its start is overwritten with `position << EDGE_FLAG_BITS | flags there`.

    Returns:
        How many edges there are, and the flags of the last base.
    """
    count = 0
    last = np.uint8(flags)
    words = codes[: codes.size // 8 * 8].view(np.uint64)
    for w in range(words.size):
        if words[w] & _FLAGS_OF_8 != np.uint64(last) * _ONES:  # eight bases that are not all like the one before
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
    """2-bit bases without the first `skipped` (1 to 3); `shifted` may be a byte shorter than `bases`."""
    left = np.uint8(2 * skipped)
    right = np.uint8(8 - 2 * skipped)
    for i in range(min(shifted.size, bases.size - 1)):
        shifted[i] = bases[i] << left | bases[i + 1] >> right
    if shifted.size == bases.size:
        shifted[-1] = bases[-1] << left


@_compiled
def _reverse_complement(kmer: np.uint64) -> np.uint64:
    """Of a 31-mer: pairs of bits swapped over ever longer distances, all inverted."""
    for step, mask in ((2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F), (8, 0x00FF00FF00FF00FF)):
        kmer = kmer >> np.uint64(step) & np.uint64(mask) | (kmer & np.uint64(mask)) << np.uint64(step)
    kmer = kmer >> np.uint64(16) & np.uint64(0x0000FFFF0000FFFF) | (kmer & np.uint64(0x0000FFFF0000FFFF)) << np.uint64(
        16
    )
    return ~(kmer >> np.uint64(32) | kmer << np.uint64(32)) >> np.uint64(2)


@_compiled
def choose_kmers(
    bases: NDArray[np.uint8],
    length: int,
    threshold: int,
    complement: NDArray[np.uint8],
    starts: NDArray[np.int64],
    kmers: NDArray[np.uint64],
) -> int:
    """The 31-mers whose middle 15 letters have a hash below `threshold` (of 2**16), on either strand alike.

    Args:
        bases: 2 bits each, of `length` bases.
        complement: (256,) the reverse complement of the four bases of a byte.
        starts, kmers: at least as long as there are 31-mers; overwritten with the places of those chosen and with
            the smaller of each and its reverse complement.

    Returns:
        How many were chosen.
    """
    count = 0
    forward = np.uint64(0)  # the last 32 bases, the newest in the low bits
    backward = np.uint64(0)  # their reverse complement, the newest in the high bits
    largest = (np.uint64(threshold) << np.uint64(48)) - np.uint64(1)
    for i in range(bases.size):
        older = forward >> np.uint64(56)
        forward = forward << np.uint64(8) | np.uint64(bases[i])
        backward = backward >> np.uint64(8) | np.uint64(complement[bases[i]]) << np.uint64(56)
        for phase in range(4):  # of the k-mer that ends at the byte's last base but `phase`
            # the middle is two 8-mers that share a letter; a sum of the strands' views does not know which is which
            middle = (forward >> np.uint64(30 + 2 * phase)) + (backward >> np.uint64(32 - 2 * phase))
            if middle * _SCRAMBLE_LOW_16 <= largest:
                start = 4 * i - 27 - phase
                if 0 <= start <= length - 31:
                    kmer = (
                        forward >> np.uint64(2 * phase) | older << np.uint64(1) << np.uint64(63 - 2 * phase)
                    ) & _KMER
                    starts[count] = start
                    kmers[count] = min(kmer, _reverse_complement(kmer))
                    count += 1
    return count

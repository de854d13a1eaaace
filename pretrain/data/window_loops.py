"""The compiled loops that unpack blocks and copy windows out of them.

They run at memory speed and release the GIL, so that reader threads work beside the training thread. numba keeps the
machine code on disk: only the first process on a machine compiles.
"""

from typing import Any

import numba
import numpy as np

from dnachunker.dataprep.packed_codes import PACKED_REPEAT_BIT
from dnachunker.model.alphabet import CODE_N, CODE_PAD

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")

_LOW_BITS = np.uint64(0x0101010101010101)
# the four codes in each byte of 2-bit bases, the first base first in memory
_FOUR_BASES = np.array([[byte >> shift & 3 for shift in (6, 4, 2, 0)] for byte in range(256)], np.uint8).view(
    np.uint32
)[:, 0]

Array = Any  # numpy arrays here; numba infers the rest


@_compiled
def unpack_block(sequence: Array, n_runs: Array, soft_runs: Array, out: Array) -> None:
    """Write packed codes (a base a byte, soft-mask bit set) of a stored block into `out`.

    Args:
        sequence: (ceil(n / 4),) uint8, 2 bits a base, the first base in the high bits.
        n_runs, soft_runs: (k, 2) uint32 start,end inside the block.
        out: (n,) uint8.
    """
    whole = len(out) // 4
    words = out[: 4 * whole].view(np.uint32)
    for i in range(whole):
        words[i] = _FOUR_BASES[sequence[i]]
    for i in range(4 * whole, len(out)):
        out[i] = sequence[whole] >> (6 - 2 * (i - 4 * whole)) & 3
    for run in range(len(n_runs)):
        for i in range(n_runs[run, 0], n_runs[run, 1]):
            out[i] = CODE_N
    for run in range(len(soft_runs)):
        for i in range(soft_runs[run, 0], soft_runs[run, 1]):
            out[i] |= PACKED_REPEAT_BIT


@_compiled
def copy_windows(
    blocks: Array, slots: Array, starts: Array, ends: Array, reverse: Array, rows: Array, out: Array
) -> None:
    """Copy windows out of decoded blocks, reverse-complemented where `reverse` is set, with pads after short windows.

    Args:
        blocks: (S, bases) uint8 packed codes.
        slots, starts, ends, reverse: (n,) of each window: row of `blocks`, start and end in it, other strand.
        rows: (n,) rows of `out` to write to.
        out: (B, L) uint8.
    """
    for window in range(len(slots)):
        bases = blocks[slots[window], starts[window] : ends[window]]
        target = out[rows[window]]
        if reverse[window]:
            _reverse_complement(bases, target[: len(bases)])
        else:
            target[: len(bases)] = bases
        target[len(bases) :] = CODE_PAD


@_compiled
def _reverse_complement(bases: Array, out: Array) -> None:
    words = len(bases) // 8
    source = bases[len(bases) - 8 * words :].view(np.uint64)
    target = out[: 8 * words].view(np.uint64)
    for i in range(words):
        eight = _reverse_bytes(source[words - 1 - i])
        is_base = ~(eight >> np.uint64(2)) & _LOW_BITS  # the bit of N is not set
        target[i] = eight ^ (is_base * np.uint64(3))  # A0 C1 G2 T3: the complement flips both bits
    for i in range(8 * words, len(bases)):
        code = bases[len(bases) - 1 - i]
        out[i] = code if code & CODE_N else code ^ 3


@_compiled
def _reverse_bytes(word: Any) -> Any:
    odd, pairs = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
    word = ((word >> np.uint64(8)) & odd) | ((word & odd) << np.uint64(8))
    word = ((word >> np.uint64(16)) & pairs) | ((word & pairs) << np.uint64(16))
    return (word >> np.uint64(32)) | (word << np.uint64(32))

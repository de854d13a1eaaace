"""The compiled loops of the data path: unpacking a block, copying windows out of it, corrupting them on the CPU.

They run at memory speed and release the GIL, so that reader threads work beside the training thread. numba keeps the
machine code on disk: only the first process on a machine compiles.
"""

from typing import Any

import numba
import numpy as np

from dnachunker.dataprep.packed_codes import PACKED_REPEAT_BIT
from dnachunker.model.alphabet import CODE_N, CODE_PAD, FIRST_BASE_ID, MASK_ID, PAD_ID

from .counter_random import GOLDEN_32, ROUNDS_32

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")

# numba freezes these into the machine code; unsigned 32-bit throughout, so that LLVM vectorises the loops
_MULTIPLIER_1, _MULTIPLIER_2 = (np.uint32(word) for word in ROUNDS_32)
_GOLDEN = np.uint32(GOLDEN_32)
_N, _PAD_CODE, _REPEAT = np.uint32(CODE_N), np.uint32(CODE_PAD), np.uint32(PACKED_REPEAT_BIT)
_FIRST_BASE, _MASK, _PAD = np.uint32(FIRST_BASE_ID), np.uint32(MASK_ID), np.uint32(PAD_ID)
_CODE_BITS = np.uint32(PACKED_REPEAT_BIT - 1)
_IGNORED = np.int32(-100)
_LOW_BITS = np.uint64(0x0101010101010101)
# the four codes of a byte of 2-bit bases, first base first in memory
_FOUR_BASES = np.array([[byte >> shift & 3 for shift in (6, 4, 2, 0)] for byte in range(256)], np.uint8).view(
    np.uint32
)[:, 0]

Array = Any  # numpy arrays here; numba infers the rest


@_compiled
def unpack_block(sequence: Array, n_runs: Array, soft_runs: Array, out: Array) -> None:
    """Write packed codes (a base a byte, soft-mask bit set) of a stored block into `out`.

    Args:
        sequence: (ceil(n / 4),) uint8, 2 bits a base, the first in the high bits.
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
    """Copy windows out of decoded blocks, as the reverse complement where asked, with pads after short ones.

    Args:
        blocks: (S, bases) uint8 packed codes.
        slots, starts, ends, reverse: (n,) of each window: row of `blocks`, span in it, strand.
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


@_compiled
def _hash(low: Any, high: Any, position: Any) -> Any:
    """`counter_random.hash_positions` for one position."""
    bits = np.uint32(np.uint32(low + np.uint32(position + np.uint32(1)) * _GOLDEN) ^ high)
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * _MULTIPLIER_1)
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * _MULTIPLIER_2)
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@_compiled
def corrupt_rows(
    packed: Array, keys: Array, below_select: Any, below_mask: Any, below_random: Any, repeat_weight: Any, span: Any,
    input_ids: Array, attention_mask: Array, labels: Array, loss_weights: Array, is_repeat: Array,
) -> None:  # fmt: skip
    """`masking.corrupt` on the CPU: (B, L) uint8 windows and (B,) uint64 keys into the five (B, L) outputs."""
    for row in range(len(packed)):
        low = np.uint32(keys[row] & np.uint64(0xFFFFFFFF))
        high = np.uint32(keys[row] >> np.uint64(32))
        bases, ids, valid = packed[row], input_ids[row], attention_mask[row]
        targets, weights, repeats = labels[row], loss_weights[row], is_repeat[row]
        phase = _hash(low, high, np.uint32(0xFFFFFFFF)) % span
        for i in range(len(bases)):
            letter = np.uint32(bases[i])
            code = letter & _CODE_BITS
            bits = _hash(low, high, np.uint32(i))
            word = bits if span == 1 else _hash(low, high, np.uint32(np.uint32(i) + phase) // span)
            share = word >> np.uint32(1)
            selected = (share < below_select) & (code < _N)
            clean = _PAD if code == _PAD_CODE else code + _FIRST_BASE
            replaced = _FIRST_BASE + (bits & np.uint32(3)) if share < below_random else clean
            corrupted = _MASK if share < below_mask else replaced
            ids[i] = np.int64(corrupted if selected else clean)
            targets[i] = np.int64(np.int32(clean) if selected else _IGNORED)
            weights[i] = (repeat_weight if letter >= _REPEAT else np.float32(1)) if selected else np.float32(0)
            valid[i] = code != _PAD_CODE
            repeats[i] = letter >= _REPEAT

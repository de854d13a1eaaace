"""The compiled loop that corrupts windows on the CPU; it runs at memory speed and releases the GIL."""

from typing import Any

import numba
import numpy as np

from dnachunker.dataprep.packed_codes import PACKED_REPEAT_BIT
from dnachunker.model.alphabet import CODE_N, CODE_PAD, FIRST_BASE_ID, MASK_ID, PAD_ID
from dnachunker.pretrain.order.counter_random import GOLDEN_32, ROUNDS_32

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")

# numba freezes these into the machine code; unsigned 32-bit throughout, so that LLVM vectorises the loops
_MULTIPLIER_1, _MULTIPLIER_2 = (np.uint32(word) for word in ROUNDS_32)
_GOLDEN = np.uint32(GOLDEN_32)
_N, _PAD_CODE, _REPEAT = np.uint32(CODE_N), np.uint32(CODE_PAD), np.uint32(PACKED_REPEAT_BIT)
_FIRST_BASE, _MASK, _PAD = np.uint32(FIRST_BASE_ID), np.uint32(MASK_ID), np.uint32(PAD_ID)
_CODE_BITS = np.uint32(PACKED_REPEAT_BIT - 1)
_IGNORED = np.int32(-100)

Array = Any  # numpy arrays here; numba infers the rest


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
        offset = _hash(low, high, np.uint32(0xFFFFFFFF)) % span
        for i in range(len(bases)):
            letter = np.uint32(bases[i])
            code = letter & _CODE_BITS
            bits = _hash(low, high, np.uint32(i))
            word = bits if span == 1 else _hash(low, high, np.uint32(np.uint32(i) + offset) // span)
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

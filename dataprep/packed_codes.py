"""Packed codes (one uint8 a base: its code and its soft-mask bit), and the 2-bit form that shards store.

A packed code is the base's code, 0-3 for ACGT and 4 for any other letter, with PACKED_REPEAT_BIT set where the base is
soft-masked. FASTA is read into packed codes and blocks are loaded as packed codes; prepared genomes and shards store 2
bits a base, plus the runs of N and of soft-mask.
"""

import numpy as np
from numpy.typing import NDArray

from dnachunker.model.alphabet import CODE_N

PACKED_REPEAT_BIT = 8
RUN_DTYPE = np.dtype("<u4")  # start,end pairs, as stored

# packed code -> FASTA letter, for bytes.translate
LETTERS = bytes(b"ACGTNNNN"[i] if i < 8 else b"acgtnnnn"[i % 8] for i in range(16)).ljust(256, b"?")
# the four codes of every byte; viewed as (256,) uint32, so that unpacking is one `take`
_UNPACK = np.array([[byte >> 6 & 3, byte >> 4 & 3, byte >> 2 & 3, byte & 3] for byte in range(256)], dtype=np.uint8)
_UNPACK_AS_WORD = _UNPACK.view(np.uint32).reshape(256)


def find_runs(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """(k, 2) uint32 start,end of each maximal run of True in the (n,) `mask`, in order."""
    if not mask.size:
        return np.empty((0, 2), RUN_DTYPE)
    edges = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    head = [0] if mask[0] else []
    tail = [mask.size] if mask[-1] else []
    return np.concatenate([head, edges, tail]).astype(RUN_DTYPE).reshape(-1, 2)


def pack_bases(codes: NDArray[np.uint8]) -> bytes:
    """(n,) codes, with or without the repeat bit -> ceil(n / 4) bytes; N is stored as A, because its low bits are 0."""
    whole = codes.size // 4 * 4
    words = np.ascontiguousarray(codes[:whole]).view("<u4") & np.uint32(0x03030303)
    # bytes b0 b1 b2 b3 of a little-endian word, 2 bits each, land in its top byte as b0<<6|b1<<4|b2<<2|b3
    words *= np.uint32(1 << 30 | 1 << 20 | 1 << 10 | 1)
    packed = words.view(np.uint8)[3::4].tobytes()
    if whole == codes.size:
        return packed
    last = sum((int(code) & 3) << shift for code, shift in zip(codes[whole:], (6, 4, 2), strict=False))
    return packed + bytes([last])


def unpack_bases(sequence: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    return _UNPACK_AS_WORD.take(sequence).view(np.uint8)[:length]


def run_bases(runs: NDArray[np.uint32]) -> int:
    """Number of bases in (k, 2) runs."""
    return int((runs[:, 1].astype(np.int64) - runs[:, 0]).sum())


def mark_soft(packed: NDArray[np.uint8], runs: NDArray[np.uint32]) -> None:
    """Set PACKED_REPEAT_BIT of `packed`, in place, on every run."""
    if _few(runs, packed.size):
        for start, end in runs.tolist():
            packed[start:end] |= PACKED_REPEAT_BIT
    else:
        packed |= _inside(runs, packed.size) * np.uint8(PACKED_REPEAT_BIT)


def mark_n(codes: NDArray[np.uint8], runs: NDArray[np.uint32]) -> None:
    """Set `codes`, in place, to the code of N on every run."""
    if _few(runs, codes.size):
        for start, end in runs.tolist():
            codes[start:end] = CODE_N
    else:
        codes[_inside(runs, codes.size).view(np.bool_)] = CODE_N


def mark_runs(
    packed: NDArray[np.uint8], runs: NDArray[np.int64], start: int, *, bit: int = 0, value: int | None = None
) -> None:
    """Set every base of `packed` that lies inside `runs` to `value`; without a `value`, set its `bit`.

    Args:
        packed: (n,) uint8, the bases of a contig from base `start` on; changed in place.
        runs: (k, 2) start,end on the contig, in order and disjoint.
    """
    end = start + packed.size
    inside = runs[np.searchsorted(runs[:, 1], start, "right") : np.searchsorted(runs[:, 0], end, "left")]
    for first, last in (np.clip(inside, start, end) - start).tolist():
        if value is None:
            packed[first:last] |= bit
        else:
            packed[first:last] = value


def _few(runs: NDArray[np.uint32], size: int) -> bool:
    # a Python loop over runs is cheaper than a pass over all bases only while runs are rare
    return len(runs) * 1024 < size


def _inside(runs: NDArray[np.uint32], size: int) -> NDArray[np.uint8]:
    """(size,) uint8, 1 inside a run and 0 outside."""
    edges = np.concatenate([[0], runs.ravel().astype(np.int64), [size]])
    states = np.zeros(edges.size - 1, np.uint8)
    states[1::2] = 1
    return np.repeat(states, np.diff(edges))

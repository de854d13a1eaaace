"""Randomness as a pure function of counters: the same key gives the same bits on any machine, rank or resume.

The mixing step is the 64-bit finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). It exists twice,
for numpy (planning the order on the host) and for torch (corrupting windows on any device), and both give
the same bits: a test holds them together.
"""

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB

UInt64Array = npt.NDArray[np.uint64]


def hash_counters(*counters: int | npt.NDArray[np.integer]) -> UInt64Array:
    """64 random bits for each tuple of counters; arrays broadcast against each other.

    Args:
        counters: non-negative integers or integer arrays, most general first (seed, epoch, block, ...).

    Returns:
        uint64 array of the broadcast shape (0-d for integers only).
    """
    state: UInt64Array = np.zeros((), np.uint64)
    for counter in counters:
        word = np.asarray(counter).astype(np.uint64)
        with np.errstate(over="ignore"):  # wrapping modulo 2**64 is the point
            state = _finalise(state + (word + np.uint64(1)) * np.uint64(_GOLDEN))
    return state


def _finalise(bits: UInt64Array) -> UInt64Array:
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MIX_1)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MIX_2)
        return bits ^ (bits >> np.uint64(31))


def hash_positions(keys: torch.Tensor, length: int) -> torch.Tensor:
    """64 random bits for every position of every window, on the device of `keys`.

    Equals `hash_counters(position)` started from the state `key`.

    Args:
        keys: (B,) int64, the bits of a uint64 key for each window.
        length: number of positions L.

    Returns:
        (B, L) int64 holding the bits of uint64 values.
    """
    positions = torch.arange(1, length + 1, dtype=torch.int64, device=keys.device)
    bits = keys[:, None] + positions[None, :] * _signed(_GOLDEN)
    bits = (bits ^ _shift_right(bits, 30)) * _signed(_MIX_1)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(_MIX_2)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: torch.Tensor, count: int) -> torch.Tensor:
    # int64 shifts copy the sign bit; a uint64 shift brings in zeros
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word

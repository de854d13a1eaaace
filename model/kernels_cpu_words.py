"""The first layer on a CPU without gradients: what comes before its scans is computed once for each word of letters.

The layer's input at a base is the embedding of one letter, and a convolution sees four. So everything before the scans
depends on a word of four letters alone. A batch of thousands of bases holds a few hundred words, and the scans look
their inputs up. Float32 only.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels_cpu import run_tasks, stretches
from .kernels_cpu_loops import CONV_WIDTH, Array, block, compiled, exp2_negative
from .packing import Packing


@dataclass(frozen=True)
class Letters:
    """The letters of T packed positions. Letter K stands for the places outside a sequence.

    Attributes:
        number: (T,) int64, which of the K distinct letters a position holds.
        place: (K,) int64, a position that holds the letter.
    """

    number: Tensor
    place: Tensor
    packing: Packing

    @classmethod
    def of(cls, ids: Tensor, packing: Packing) -> "Letters":
        """ids (T,) int64."""
        found, number = ids.unique(return_inverse=True)
        return cls(number, number.new_zeros(len(found)).scatter_(0, number, torch.arange(len(ids))), packing)

    def words(self, reverse: bool) -> tuple[Tensor, Tensor]:
        """Letters of the words that a convolution reads, its own position first: (W, 4), and the word of each (T,)."""
        before, outside = self.packing.steps[int(reverse)], len(self.place)
        code = torch.zeros_like(self.number)
        for step in reversed(range(CONV_WIDTH)):
            seen = torch.where(before >= step, self.number.roll(-step if reverse else step), outside)
            code = code * (outside + 1) + seen
        found, word = code.unique(return_inverse=True)
        powers = (outside + 1) ** torch.arange(CONV_WIDTH)
        return found.unsqueeze(1) // powers % (outside + 1), word


def conv_silu_of_words(u: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`kernels_reference.conv_silu` at words. u (K, Dm), a row for each letter; words (W, 4) -> (W, Dm)."""
    taps = weight.t().flip(0)  # tap k weighs the value of k steps before
    return F.silu(bias + (F.pad(u, (0, 0, 0, 1))[words] * taps).sum(1))


def scan_words(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, word: Tensor, letters: Letters,
    y: Tensor, gate: Tensor | None, *, reverse: bool,
) -> Tensor:  # fmt: skip
    """Add one direction of the selective scan to y (T, Dm), multiply y by the gate, if any, and return it.

    Args:
        u, delta: (W, Dm), B, C: (W, N): of each word. A: (Dm, N). D: (Dm,).
        word: (T,) int64.
        gate: (K, Dm), of each letter.
    """
    rate = A.t().mul(1 / math.log(2))
    tables = [_array(x) for x in (u, delta, rate, B, C, D, word, u if gate is None else gate, letters.number)]
    into = y.detach().numpy()  # C-contiguous, or what the loop writes is lost

    def task(sequence: int, start: int, stop: int, part: int, low: int, high: int) -> None:
        add_scan(*tables, into, start, stop, low, high, reverse, gate is not None)

    run_tasks(task, stretches(letters.packing.cu_seqlens, y.shape[1]))
    return y


@compiled()
def add_scan(
    u: Array, delta: Array, a: Array, b: Array, c: Array, d: Array, word: Array, gate: Array, letter: Array, y: Array,
    start: int, stop: int, low: int, high: int, reverse: bool, gated: bool,
) -> None:  # fmt: skip
    """As `kernels_cpu_loops.scan_forward`, with the rows of u, delta, b, c that `word` (T,) names; adds to y (T, D).

    With `gated`, y is then multiplied by the rows of gate that `letter` (T,) names. The step is written out again here,
    because a function that both loops call is not vectorised: the scan then takes more than twice the time.
    """
    n_state = a.shape[0]
    width = high - low
    h = np.zeros((n_state, width), np.float32)
    rate = block(a, low, high)
    step = np.empty(width, np.float32)
    drive = np.empty(width, np.float32)
    out = np.empty(width, np.float32)
    for i in range(stop - start):
        t = stop - 1 - i if reverse else start + i
        w = word[t]
        for j in range(width):
            step[j] = delta[w, low + j]
            drive[j] = delta[w, low + j] * u[w, low + j]
            out[j] = d[low + j] * u[w, low + j]
        for n in range(n_state):
            bn = b[w, n]
            cn = c[w, n]
            for j in range(width):
                new = exp2_negative(step[j] * rate[n, j]) * h[n, j] + drive[j] * bn
                h[n, j] = new
                out[j] += new * cn
        if gated:
            g = letter[t]
            for j in range(width):
                y[t, low + j] = (y[t, low + j] + out[j]) * gate[g, low + j]
        else:
            for j in range(width):
                y[t, low + j] += out[j]


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()

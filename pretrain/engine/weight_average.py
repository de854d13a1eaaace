"""A running average of the weights: what a run is judged by, and exports, while training goes on with the weights.

With a rate that does not fall, weights move to and fro around a good place, and their average lies nearer to it. The
average is over a fixed share of the updates so far, so that it needs no number of steps to be chosen for it: Karras et
al. 2023, "Analyzing and improving the training dynamics of diffusion models", section 3.1.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from .optimizer_parts import Part

AVERAGE = "average"  # the kind of these values in a checkpoint, beside those of Adam's moments


@cache
def exponent(share: float) -> float:
    """The exponent of `kept` with which the average reaches back over `share` of the updates.

    Args:
        share: standard deviation of an averaged update's number, as a share of the number of updates; at most 0.25.

    Returns:
        g + 1, where g >= 0 is the root of (g + 1) / ((g + 2)^2 (g + 3)) = share^2.
    """
    inverse = share**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()) + 1


def kept(share: float, updates: int) -> float:
    """The part of the average that update number `updates`, from 1 on, keeps; the rest are the new weights."""
    return float((1 - 1 / updates) ** exponent(share))


class WeightAverage:
    """The average of the weights that a rank's optimizer updates: float32 vectors, in the order of its parts."""

    def __init__(self, parts: Sequence[Part], share: float) -> None:
        """Begin with the weights of now.

        Args:
            parts: whose `weight` stays the vector that the optimizer updates.
            share: see `exponent`.
        """
        self._share = share
        self._weights = [part.weight for part in parts]
        self.values = [weight.clone() for weight in self._weights]
        self.lent = False  # weights and average have changed places

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the weights after update number `updates`, from 1 on."""
        torch._foreach_lerp_(self.values, self._weights, 1 - kept(self._share, updates))

    @torch.no_grad()
    def exchange(self) -> None:
        """Let weights and average change places; twice gives all back to the bit."""
        for weight, value in zip(self._weights, self.values, strict=True):
            weights = weight.clone()
            weight.copy_(value)
            value.copy_(weights)
        self.lent = not self.lent

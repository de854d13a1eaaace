"""Turn class probabilities of single bases into segments, by a Markov chain over classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .labels import IGNORED
from .markov_loops import most_likely_path

_PSEUDOCOUNT = 1e-3  # steps from a class to a class that training does not show
_LEAST = 1e-6  # a smaller probability of a network counts as this one, since no network is so sure


@dataclass(frozen=True)
class ClassChain:
    """A Markov chain over classes along a sequence.

    Attributes:
        shares: (classes,) of all bases. transitions: (classes, classes), from row to column.
    """

    shares: NDArray[np.float64]
    transitions: NDArray[np.float64]

    def decode(self, probabilities: NDArray[np.float32], lengths: Sequence[int]) -> NDArray[np.int64]:
        """The path of classes (L,) with the largest product of probabilities of bases and of steps of the chain.

        So a class does not change for single bases at which another class is a little more likely. The probabilities
        are not divided by the shares of the classes, as a hidden Markov model would have it: neighbouring bases are
        read in one window, and hundreds of small errors of a rare class in one direction would add up.

        Args:
            probabilities: (L, classes) of regions, one after the other; lengths: bases of each.
        """
        scores = np.log(np.maximum(probabilities.astype(np.float64), _LEAST))
        parts = np.split(scores, np.cumsum(lengths)[:-1])
        logs = np.log(self.transitions), np.log(self.shares)
        return np.concatenate([most_likely_path(part, *logs) for part in parts])


def count_chain(sequences: Iterable[NDArray[np.int64]], classes: int) -> ClassChain:
    """Count the labels (L,) of several sequences; bases without a label are left out. Every class must occur."""
    steps = np.zeros((classes, classes))
    shares = np.zeros(classes)
    for labels in sequences:
        known = labels != IGNORED
        shares += np.bincount(labels[known], minlength=classes)
        both = known[:-1] & known[1:]
        pairs = labels[:-1][both] * classes + labels[1:][both]
        steps += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    steps += _PSEUDOCOUNT
    return ClassChain(shares / shares.sum(), steps / steps.sum(axis=1, keepdims=True))

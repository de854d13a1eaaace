"""The Markov segmenter: a hidden Markov model over classes, whose bases follow a Markov chain of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnachunker.foundations.failures import BadInput

from .decoding import ClassChain, count_chain
from .labels import IGNORED
from .markov_loops import posteriors

_N = 4
_BACKOFF = 8.0  # weight of the next lower order, in counts of bases
_PIECE = 2**20  # bases that are segmented at a time, to bound memory


@dataclass(frozen=True)
class MarkovSegmenter:
    """A trained segmenter.

    Attributes:
        order: bases that a base depends on.
        emissions: (states, 4^order, 4), P(base | class, bases before it).
        chain: over the states.
        merged: (states,) int64, the class that each state counts for.
    """

    order: int
    emissions: NDArray[np.float64]
    chain: ClassChain
    merged: NDArray[np.int64]

    def predict(self, codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Class probabilities (L, classes) of a sequence of codes 0-3, and 4 for N."""
        found = np.zeros((len(codes), self.merged.max() + 1))
        for start in range(0, len(codes), _PIECE):
            piece = codes[start : start + _PIECE]
            contexts, known = _contexts(piece, self.order)
            likelihoods = np.ones((len(piece), len(self.emissions)))
            likelihoods[known] = self.emissions[:, contexts[known], piece[known]].T
            states = posteriors(likelihoods, self.chain.transitions, self.chain.shares)
            for state, number in enumerate(self.merged):
                found[start : start + len(piece), number] += states[:, state]
        return found


def train_markov(
    sequences: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    opposite: NDArray[np.int64],
    merged: NDArray[np.int64],
    order: int,
) -> MarkovSegmenter:
    """Count both strands of labelled sequences.

    Args:
        sequences: codes (L,), 4 for N, and the states (L,) of their bases, or IGNORED.
        opposite: (states,), the state of a base when the other strand is read.
        merged: (states,), as in MarkovSegmenter.

    Raises:
        BadInput: a state has no base.
    """
    states = len(opposite)
    counts = [np.zeros((states, 4**n, 4)) for n in range(order + 1)]
    read: list[NDArray[np.int64]] = []
    for codes, labels in sequences:
        swapped = np.where(labels == IGNORED, IGNORED, opposite[np.maximum(labels, 0)])
        for letters, classes in ((codes, labels), (np.where(codes == _N, _N, 3 - codes)[::-1], swapped[::-1])):
            for n, table in enumerate(counts):
                contexts, known = _contexts(letters, n)
                known &= classes != IGNORED
                cells = (classes[known] * 4**n + contexts[known]) * 4 + letters[known]
                table += np.bincount(cells, minlength=table.size).reshape(table.shape)
            read.append(classes)
    if not counts[0].sum(axis=(1, 2)).all():
        raise BadInput("markov: a class has no base in the training regions; train on more, or `ignore` the class")
    emissions = np.full((states, 1, 4), 0.25)
    for table in counts:  # each order falls back on the next lower one, which lacks the farthest base
        lower = np.tile(emissions, (1, table.shape[1] // emissions.shape[1], 1))
        emissions = (table + _BACKOFF * lower) / (table.sum(axis=2, keepdims=True) + _BACKOFF)
    return MarkovSegmenter(order, emissions, count_chain(read, states), merged)


def _contexts(codes: NDArray[np.int64], order: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The `order` bases before each base as a number, the nearest base as lowest digit; and where all are known."""
    contexts = np.zeros(len(codes), np.int64)
    known = codes != _N
    known[:order] = False
    for back in range(1, order + 1):
        contexts[back:] += codes[:-back] * 4 ** (back - 1)
        known[back:] &= codes[:-back] != _N
    return np.where(known, contexts, 0), known

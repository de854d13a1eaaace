"""The two algorithms of hidden Markov models, forward-backward and Viterbi, compiled by numba."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def posteriors(
    likelihoods: NDArray[np.float64], transitions: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probability of every state at every position, given the whole sequence.

    Args:
        likelihoods: (L, S), of the symbol at each position in each state.
        transitions: (S, S), from row to column, rows sum to 1.
        start: (S,), of the first state.

    Returns:
        (L, S), rows sum to 1.
    """
    length, states = likelihoods.shape
    forward = np.empty((length, states))
    scale = np.empty(length)
    for t in range(length):
        total = 0.0
        for state in range(states):
            reached = start[state] if t == 0 else 0.0
            if t > 0:
                for before in range(states):
                    reached += forward[t - 1, before] * transitions[before, state]
            forward[t, state] = reached * likelihoods[t, state]
            total += forward[t, state]
        scale[t] = total
        for state in range(states):
            forward[t, state] /= total
    backward = np.ones(states)
    for t in range(length - 2, -1, -1):
        weighted = backward * likelihoods[t + 1] / scale[t + 1]
        for state in range(states):
            total = 0.0
            for after in range(states):
                total += transitions[state, after] * weighted[after]
            backward[state] = total
        for state in range(states):
            forward[t, state] *= backward[state]
    return forward


@_compiled
def most_likely_path(
    scores: NDArray[np.float64], log_transitions: NDArray[np.float64], log_start: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The path of states with the largest sum (Viterbi's algorithm); of equals, the lower state.

    Args:
        scores: (L, S), log-likelihood of the symbol at each position in each state.
        log_transitions: (S, S), logarithm of `transitions` as above; log_start: (S,).

    Returns:
        (L,) int64.
    """
    length, states = scores.shape
    origin = np.empty((length, states), np.int8)
    best = log_start + scores[0]
    for t in range(1, length):
        reached = np.empty(states)
        for state in range(states):
            highest, chosen = -np.inf, 0
            for before in range(states):
                value = best[before] + log_transitions[before, state]
                if value > highest:
                    highest, chosen = value, before
            reached[state] = highest + scores[t, state]
            origin[t, state] = chosen
        best = reached
    path = np.empty(length, np.int64)
    path[-1] = np.argmax(best)
    for t in range(length - 1, 0, -1):
        path[t - 1] = origin[t, path[t]]
    return path

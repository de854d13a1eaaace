"""The Markov segmenter: its forward-backward against a sum over all paths, and what it learns."""

import itertools

import numpy as np

from dnachunker.downstream.per_base.decoding import count_chain
from dnachunker.downstream.per_base.labels import IGNORED
from dnachunker.downstream.per_base.markov import train_markov
from dnachunker.downstream.per_base.markov_loops import most_likely_path, posteriors


def test_posteriors_and_the_best_path_equal_those_of_all_paths() -> None:
    rng = np.random.default_rng(0)
    likelihoods, transitions, start = rng.random((6, 3)), rng.random((3, 3)), rng.random(3)
    transitions /= transitions.sum(1, keepdims=True)
    expected = np.zeros((6, 3))
    best = (0.0, ())
    for path in itertools.product(range(3), repeat=6):
        chance = start[path[0]] * np.prod([likelihoods[t, state] for t, state in enumerate(path)])
        chance *= np.prod([transitions[a, b] for a, b in itertools.pairwise(path)])
        expected[range(6), path] += chance
        best = max(best, (chance, path))
    np.testing.assert_allclose(
        posteriors(likelihoods, transitions, start), expected / expected.sum(1, keepdims=True), rtol=1e-12
    )
    assert tuple(most_likely_path(np.log(likelihoods), np.log(transitions), np.log(start))) == best[1]


def test_decoding_keeps_segments_whole_and_regions_apart() -> None:
    truth = np.repeat([0, 1, 0, 1], [400, 100, 400, 100])
    chain = count_chain([truth[:500], truth[500:]], 2)
    np.testing.assert_allclose(chain.shares, [0.8, 0.2])
    rng = np.random.default_rng(0)
    right = np.where(rng.random(1000) < 0.15, 0.3, 0.8)  # 15 % of the bases look more like the other class
    probabilities = np.stack([np.where(truth == 0, right, 1 - right), np.where(truth == 1, right, 1 - right)], 1)
    borders = np.flatnonzero(np.diff(chain.decode(probabilities.astype(np.float32), [500, 500]))) + 1
    assert len(borders) == 3
    np.testing.assert_allclose(borders, [400, 500, 900], atol=5)
    split = chain.decode(probabilities.astype(np.float32), [450, 550])
    alone = chain.decode(probabilities[450:].astype(np.float32), [550])
    assert (split[450:] == alone).all()


def genome(rng: np.random.Generator, stretches: int) -> tuple[np.ndarray, np.ndarray]:
    """State 0 repeats ACG with errors, state 1 its reverse complement CGT, state 2 is random."""
    codes, labels = [], []
    for number in range(stretches):
        state, length = (0, 2, 1, 2)[number % 4], int(rng.integers(150, 300))
        word = {0: [0, 1, 2], 1: [1, 2, 3]}.get(state)
        text = np.resize(word, length) if word else rng.integers(0, 4, length)
        noise = rng.random(length) < 0.1
        codes.append(np.where(noise, rng.integers(0, 4, length), text))
        labels.append(np.full(length, state))
    return np.concatenate(codes), np.concatenate(labels)


def test_states_of_either_strand_are_found_and_n_and_unlabelled_bases_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    codes, labels = genome(rng, 40)
    codes[100:120], labels[300:340] = 4, IGNORED
    opposite = np.array([1, 0, 2])
    # only the forward strand is shown: the other one is learned from its complement
    kept = np.where(labels == 1, IGNORED, labels)
    segmenter = train_markov([(codes, kept)], opposite, np.arange(3), 3)
    test, truth = genome(rng, 16)
    found = segmenter.predict(test)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
    assert (found.argmax(1) == truth).mean() > 0.97
    merged = train_markov([(codes, kept)], opposite, np.array([0, 0, 1]), 3).predict(test)
    np.testing.assert_allclose(merged[:, 0], found[:, :2].sum(1), atol=1e-9)

"""Logistic regression on fixed features: the vectors of a frozen network, or k-mer frequencies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dnachunker.downstream.tasks.metrics import score

_INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """A linear classifier.

    Attributes:
        weight: (classes, features), for features that are not standardised; bias: (classes,).
        inverse_penalty: scikit-learn's C, chosen by the validation score; validation: that score.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    inverse_penalty: float
    validation: float

    def predict(self, features: Features) -> NDArray[np.float64]:
        """Class probabilities (n, classes)."""
        logits = features @ self.weight.T + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        raised = np.exp(logits)
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def fit_linear(
    train: tuple[Features, NDArray[np.int64]],
    validation: tuple[Features, NDArray[np.int64]],
    classes: int,
    metric: str,
    *,
    class_weights: bool,
) -> Linear:
    """Fit with each penalty and keep the best by validation score (of equals, the stronger penalty).

    Args:
        train, validation: features (n, F) and labels (n,). Every class occurs in training.
    """
    scaler = StandardScaler().fit(train[0])
    scaled = scaler.transform(train[0])
    best: Linear | None = None
    for penalty in _INVERSE_PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=2000, class_weight="balanced" if class_weights else None)
        model.fit(scaled, train[1])
        weight, bias = model.coef_, model.intercept_
        if classes == 2:  # scikit-learn keeps only the row of class 1
            weight, bias = np.vstack([np.zeros_like(weight), weight]), np.array([0.0, bias[0]])
        weight = weight / scaler.scale_
        fitted = Linear(weight, bias - weight @ scaler.mean_, penalty, 0.0)
        reached = score(validation[1], fitted.predict(validation[0]), metric)
        if best is None or reached > best.validation:
            best = Linear(fitted.weight, fitted.bias, penalty, reached)
    assert best is not None
    return best


def kmer_frequencies(sequences: tuple[str, ...], k: int) -> Features:
    """Share of each k-mer among those of a sequence, (n, 4^k); a k-mer with a letter other than ACGT is left out."""
    table = np.full(256, -1, np.int64)
    for code, letter in enumerate("ACGT"):
        table[[ord(letter), ord(letter.lower())]] = code
    features = np.zeros((len(sequences), 4**k), np.float32)
    for row, sequence in enumerate(sequences):
        codes = table[np.frombuffer(sequence.encode("latin-1", "replace"), np.uint8)]
        if len(codes) < k:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(codes, k)
        whole = windows[(windows >= 0).all(axis=1)]
        numbers = whole @ (4 ** np.arange(k - 1, -1, -1))
        features[row] = np.bincount(numbers, minlength=4**k) / max(1, len(numbers))
    return features

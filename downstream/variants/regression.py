"""Regressions under cross-validation: several scores combined into one, and a score turned into a probability.

Variants come in groups, such as those at one position. A group is in one fold, so that no fold is tested on a group
that it was fitted on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .ranking import Floats, Labels

FOLDS = 5
_BINS = 10

Groups = NDArray[np.int64]
Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True)
class Calibration:
    """Reliability of a score that was turned into a probability.

    Attributes:
        brier: mean squared difference of probability and label; base_brier: that of the share of positives.
        predicted, observed: (bins,) mean probability and share of positives, in bins of equally many variants.
    """

    brier: float
    base_brier: float
    predicted: Floats
    observed: Floats


def grouped_folds(labels: Labels, groups: Groups, seed: int) -> Folds:
    """Training and test rows of up to five folds, each with about the same share of positives.

    Args:
        groups: (n,), the number of each variant's group.

    Returns:
        No folds where a class has too few groups.
    """
    count = min(FOLDS, len(np.unique(groups[labels])), len(np.unique(groups[~labels])))
    if count < 2:
        return []
    cut = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    folds = list(cut.split(np.zeros(len(labels)), labels, groups))
    whole = all(0 < labels[train].sum() < len(train) and len(test) for train, test in folds)
    return folds if whole else []


def combine(features: Floats, labels: Labels, folds: Folds) -> Floats:
    """(n,) probabilities of a logistic regression on standardised scores (n, F), each from the folds without it."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return np.asarray(cross_val_predict(model, features, labels, cv=folds, method="predict_proba")[:, 1])


def calibrate(labels: Labels, scores: Floats, groups: Groups, seed: int) -> Calibration | None:
    """Turn a score into a probability by isotonic regression, each variant by the folds without it.

    Variants whose score is NaN are left out.

    Returns:
        None where there are too few variants for folds.
    """
    known = np.isfinite(scores)
    labels, scores = labels[known], scores[known]
    folds = grouped_folds(labels, groups[known], seed)
    if not folds:
        return None
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    probability = cross_val_predict(model, scores[:, None], labels.astype(float), cv=folds)
    observed, predicted = calibration_curve(labels, probability, n_bins=_BINS, strategy="quantile")
    share = np.full(len(labels), labels.mean())
    return Calibration(
        float(brier_score_loss(labels, probability)), float(brier_score_loss(labels, share)), predicted, observed
    )

"""Scores of bases and segments on cases made by hand."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from dnachunker.downstream.per_base.labels import IGNORED
from dnachunker.downstream.per_base.scores import RECALLS, score_bases, segment_scores


def labels(text: str) -> np.ndarray:
    return np.array([IGNORED if letter == "x" else int(letter == "C") for letter in text])


@pytest.mark.parametrize(
    ("truth", "predicted", "segments", "exact", "overlap"),
    [
        ("..CCCC..CCCC..", "..CCCC..CCCC..", 2, 1.0, 1.0),
        ("..CCCC..CCCC..", "..CCCC..CCC...", 2, 0.5, 1.0),
        ("..CCCC..CCCC..", "..CCCCCCCCCC..", 2, 0.0, 0.0),  # merged: 4 of 10 bases
        ("..CCCC........", "..C.CC........", 1, 0.0, 2 / 3),  # half is enough, and the lost piece counts against it
        ("..CCCCCC......", "..CCC.........", 1, 0.0, 1.0),  # exactly half
        ("..CCCCCC......", "..CC..........", 1, 0.0, 0.0),
        ("..CCCC........", "..............", 1, 0.0, 0.0),
        ("..xxCC........", "..CCCC........", 1, 1.0, 1.0),  # what is not scored belongs to no segment
    ],
)
def test_segments(truth: str, predicted: str, segments: int, exact: float, overlap: float) -> None:
    true = labels(truth)
    guesses = np.where(true == IGNORED, IGNORED, labels(predicted))
    found = segment_scores([(true, guesses)], 1)
    assert found["segments"] == segments
    assert found["segment_f1_exact"] == pytest.approx(exact)
    assert found["segment_f1_overlap"] == pytest.approx(overlap)


def test_halves_of_a_segment_count_once() -> None:
    found = segment_scores([(labels("CCCC"), np.array([1, 1, 0, 1]))], 1)
    assert found["segment_f1_overlap"] == pytest.approx(2 / 3)
    tie = segment_scores([(labels("CCCC.."), labels("CC.CC."))], 1)  # 2 of 4, and 1 of 5
    assert tie["segment_f1_overlap"] == pytest.approx(2 / 3)


def test_segments_end_with_their_region() -> None:
    truth = labels("..CCCC..")
    whole = score_bases(truth, np.eye(2, dtype=np.float32)[truth], truth, [8], (".", "C"), resamples=5)
    cut = score_bases(truth, np.eye(2, dtype=np.float32)[truth], truth, [4, 4], (".", "C"), resamples=5)
    assert [one["classes"]["C"]["segments"] for one in (whole, cut)] == [1, 2]
    assert cut["macro_f1"] == cut["macro_auprc"] == cut["classes"]["C"]["segment_f1_exact"] == 1


def test_bases_by_class_leave_out_what_is_ignored_and_what_is_absent() -> None:
    truth = np.array([0, 0, 1, 1, IGNORED, IGNORED])
    table = np.array(
        [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.9, 0.1, 0], [0, 1, 0]], np.float32
    )
    found = score_bases(truth, table, table.argmax(1), [6], ("a", "b", "c"), resamples=20)
    assert found["bases"] == 4
    assert found["classes"]["a"]["f1"] == pytest.approx(2 / 3)
    assert found["classes"]["b"]["f1"] == pytest.approx(4 / 5)
    assert found["classes"]["c"] == {
        "bases": 0, "f1": None, "auprc": None, "segments": 0, "segment_f1_exact": None, "segment_f1_overlap": None,
        "precision_at_recall": None,
    }  # fmt: skip
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    low, high = found["macro_f1_interval"]
    assert low <= found["macro_f1"] <= high


def test_stored_curves_have_the_best_precision_at_each_recall() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(400) < 0.3).astype(np.int64)
    score = rng.random(400).astype(np.float32) / 2 + truth.astype(np.float32) / 4
    found = score_bases(truth, np.stack([1 - score, score], 1), truth, [400], (".", "C"), resamples=5)
    precision, recall, _ = precision_recall_curve(truth, score)
    expected = [precision[recall >= least].max() for least in RECALLS]
    np.testing.assert_allclose(found["classes"]["C"]["precision_at_recall"], expected, atol=1e-5)

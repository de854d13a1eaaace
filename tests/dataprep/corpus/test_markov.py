"""Baselines against counts made by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from dnachunker.dataprep.corpus.markov import MarkovTables
from dnachunker.model.alphabet import CODE_N


def codes(letters: str) -> np.ndarray:
    return np.array(["ACGTN".index(letter) for letter in letters], np.uint8)


def test_order_0_is_the_composition() -> None:
    tables = MarkovTables.counted([codes("AAAC" * 1000)])
    losses = tables.losses(codes("ACG"), 0)
    share = np.array([3000.5, 1000.5, 0.5]) / 4002
    np.testing.assert_allclose(losses, -np.log(share))


@pytest.mark.parametrize("order", [3, 5])
def test_a_periodic_sequence_is_predicted_once_the_context_is_known(order: int) -> None:
    tables = MarkovTables.counted([codes("ACGTTGCA" * 500)])
    losses = tables.losses(codes("ACGTTGCA" * 2), order)
    assert (losses[order:] < 0.01).all()
    assert losses[0] > 1  # no context yet: as good as order 0


def test_context_ends_at_n_and_n_is_not_scored() -> None:
    tables = MarkovTables.counted([codes("ACGT" * 500), codes("ACGT" * 500)])
    losses = tables.losses(codes("ACGTNACG"), 3)
    assert math.isnan(losses[4])
    np.testing.assert_allclose(losses[5], tables.losses(codes("A"), 0)[0])
    assert losses[3] < 0.01
    assert CODE_N == 4


def test_a_block_shorter_than_the_order_is_counted() -> None:
    tables = MarkovTables.counted([codes("AC"), codes("N"), codes("A")])
    assert tables.losses(codes("A"), 5)[0] == pytest.approx(-math.log(2.5 / 5))


def test_higher_orders_are_counted_and_cached_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = codes("AAAAAAAC" + "CAAAAAAG")
    sequence = np.tile(text, 400)
    MarkovTables.cached("c", lambda: [sequence])
    longer = MarkovTables.cached("c", lambda: [sequence], longest=8)
    assert longer.losses(codes("CAAAAAAG"), 5)[7] > 0.5  # six bases are needed to tell C from G
    assert longer.losses(codes("CAAAAAAG"), 8)[7] < 0.05
    again = MarkovTables.cached("c", lambda: pytest.fail("counted again"))  # higher orders do no harm
    assert (again.losses(text, 5) == longer.losses(text, 5)).all()

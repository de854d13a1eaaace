"""How far back the running average of the weights reaches."""

import pytest

from dnachunker.pretrain.engine.weight_average import kept

UPDATES = 4000


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2, 0.25])
def test_the_average_reaches_back_over_its_share_of_all_updates_so_far(share: float) -> None:
    mean = square = 0.0  # of the numbers of the updates in the average
    for number in range(1, UPDATES + 1):
        part = kept(share, number)
        assert 0 <= part < 1
        mean, square = part * mean + (1 - part) * number, part * square + (1 - part) * number**2
        if number in (UPDATES // 4, UPDATES):
            assert (square - mean**2) ** 0.5 == pytest.approx(share * number, rel=0.05)

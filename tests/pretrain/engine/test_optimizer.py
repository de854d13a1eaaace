"""Learning-rate schedules at their corners."""

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import ScheduleSettings
from dnachunker.pretrain.engine.optimizer import learning_rate


def rates(schedule: ScheduleSettings, steps: int = 100) -> list[float]:
    return [learning_rate(step, steps, 1.0, schedule) for step in range(steps)]


@pytest.mark.parametrize("shape", ["linear", "1-sqrt"])
def test_wsd_rises_holds_and_falls(shape: str) -> None:
    lr = rates(ScheduleSettings(kind="wsd", warmup=0.1, decay=0.2, decay_shape=shape))  # type: ignore[arg-type]
    assert lr[0] == pytest.approx(0.1)
    assert lr[9:80] == [1.0] * 71
    assert all(a > b > 0 for a, b in zip(lr[79:99], lr[80:100], strict=True))
    if shape == "linear":
        assert lr[99] == pytest.approx(1 / 21)


def test_cosine_and_constant() -> None:
    cosine = rates(ScheduleSettings(kind="cosine", warmup=0.0, final_share=0.1))
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.55)
    assert 0.1 <= cosine[-1] < 0.102
    assert rates(ScheduleSettings(kind="constant", warmup=0.0)) == [1.0] * 100


def test_a_warm_up_that_overlaps_the_decay_is_refused() -> None:
    with pytest.raises(BadInput, match="warmup \\+ decay"):
        validate_config(ScheduleSettings, {"warmup": 0.6, "decay": 0.6}, origin="x.yaml")

"""Learning-rate schedules at their corners, and a rate for each stage."""

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import load_config, validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.build_model import build_model
from dnachunker.pretrain.engine.network import lr_factors
from dnachunker.pretrain.engine.optimizer import build_adamw, learning_rate, ratio_loss_scale
from dnachunker.pretrain.settings.learning import ScheduleSettings


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


def test_the_weight_of_the_ratio_loss_rises_over_its_warm_up() -> None:
    schedule = ScheduleSettings(ratio_warmup=0.1)
    scales = [ratio_loss_scale(step, 100, schedule) for step in range(100)]
    assert scales[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert set(scales[9:]) == {1.0}
    assert {ratio_loss_scale(step, 100, ScheduleSettings()) for step in range(100)} == {1.0}


def factors_of(*overrides: str) -> tuple[float, ...]:
    config = load_config(PretrainConfig, "tiny", ["run=r", "data.corpus=c", *overrides], kind="pretrain")
    return lr_factors(config.optimizer, config.model, config.tokenization)


def test_auto_is_the_root_of_positions_for_each_position_of_the_trunk() -> None:
    assert factors_of() == (1, 1, 1)
    assert factors_of("optimizer.stage_lr=[3.0,1.7,0.9]") == (3.0, 1.7, 0.9)
    assert factors_of("optimizer.stage_lr=auto", "model.target_ratios=[0.25,0.25]") == (4, 2, 1)
    assert factors_of("optimizer.stage_lr=auto", "tokenization.kind=kmer", "tokenization.k=4") == (2, 1, 1)


def test_each_parameter_is_in_the_group_of_its_stage_and_decay() -> None:
    config = load_config(PretrainConfig, "tiny", ["run=r", "data.corpus=c", "model.width=32"], kind="pretrain")
    model = build_model(config.model, config.tokenization, config.engine, seed=0)
    plain = model.no_weight_decay_parameter_names()
    one = build_adamw(model, plain, config.optimizer)
    assert [group["weight_decay"] for group in one.param_groups] == [config.optimizer.weight_decay, 0.0]

    groups = build_adamw(model, plain, config.optimizer, (3.0, 2.0, 1.0)).param_groups
    found = {id(p): (group["lr_factor"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        level = next((stage for stage in "01" if f"ers.{stage}." in name.partition("layers")[0]), "0")
        factor = 1.0 if ".trunk." in name else {"0": 3.0, "1": 2.0}[level]
        assert found[id(parameter)] == (factor, 0.0 if name in plain else config.optimizer.weight_decay), name

"""Raw DeepSpeed keys: passed on if DeepSpeed takes them, refused if DeepSpeed ignores or a setting decides them."""

from typing import Any

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import EngineSettings
from dnachunker.pretrain.engine.deepspeed_config import deepspeed_config


def build(raw: dict[str, Any], **engine: Any) -> dict[str, Any]:
    settings = EngineSettings.model_validate({"deepspeed": raw, **engine})
    return deepspeed_config(settings, global_batch=8, accumulation=1, world_size=2, clip_grad_norm=1.0)


def test_valid_keys_are_merged_into_ours() -> None:
    made = build({"zero_optimization": {"overlap_comm": True}, "prescale_gradients": True}, zero_stage=2)
    assert made["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert made["prescale_gradients"] is True
    assert made["gradient_accumulation_steps"] == 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"zero_optimisation": {"overlap_comm": True}}, "nearest valid key: 'zero_optimization.overlap_comm'"),
        ({"zero_optimization": {"overlap_com": True}}, "nearest valid key: 'zero_optimization.overlap_comm'"),
        ({"zero_optimization": {"stage": 3}}, "set engine.zero_stage instead"),
        ({"gradient_clipping": 2.0}, "set optimizer.clip_grad_norm instead"),
        ({"fp16": {"enabled": True}}, "set engine.precision instead"),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, "reduce_bucket_size"),
        ({"zero_optimization": {"offload_param": {"devices": "cpu"}}}, "offload_param.devices"),
        ({"prescale_gradients": "yes"}, "'yes' is not a value"),
    ],
)
def test_a_key_that_deepspeed_ignores_or_a_setting_decides_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(raw)

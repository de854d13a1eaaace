"""Raw DeepSpeed keys: passed on when DeepSpeed takes them, refused when it would ignore them or we contradict them."""

from typing import Any

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.deepspeed_config import deepspeed_config


def build(raw: dict[str, Any], **engine: Any) -> dict[str, Any]:
    values = {"run": "r", "steps": 1, "data": {"corpus": "c"}, "engine": {"deepspeed": raw, **engine}}
    return deepspeed_config(validate_config(PretrainConfig, values, origin="x"), 2)


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
def test_what_deepspeed_would_ignore_or_we_contradict_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(raw)

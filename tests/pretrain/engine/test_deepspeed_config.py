"""Raw DeepSpeed keys: passed on if DeepSpeed takes them, refused if DeepSpeed ignores or a setting decides them."""

from typing import Any

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import EngineSettings
from dnachunker.pretrain.engine.deepspeed_config import deepspeed_config, require_deepspeed_takes


def build(raw: dict[str, Any], **engine: Any) -> dict[str, Any]:
    settings = EngineSettings.model_validate({"deepspeed": raw, **engine})
    return deepspeed_config(settings, global_batch=8, accumulation=1, world_size=2, clip_grad_norm=1.0)


def test_valid_keys_are_merged_into_ours() -> None:
    made = build({"zero_optimization": {"overlap_comm": True}, "prescale_gradients": True}, zero_stage=2)
    assert made["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert made["prescale_gradients"] is True
    assert made["gradient_accumulation_steps"] == 1


def test_a_section_of_ours_keeps_what_the_raw_keys_leave_out() -> None:
    raw = {"zero_optimization": {"offload_optimizer": {"pin_memory": False}}}
    made = build(raw, offload_optimizer=True)
    assert made["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": False}


@pytest.mark.parametrize(
    "raw",
    [
        {"zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": True}}},
        {"zero_optimization": {"stage3_prefetch_bucket_size": 1000, "offload_param": {"device": "cpu"}}},
        {"zero_optimization": {"reduce_bucket_size": "auto", "leaf_module": {"names": ["trunk"]}}},
        {"torch_autocast": {"lower_precision_safe_modules": ["torch.nn.Linear"]}},
        {"data_types": {"grad_accum_dtype": "fp32", "keep_in_fp32_modules": ["norm"]}},
        {"comms_logger": {"enabled": True, "prof_ops": ["all_reduce"]}},
        {"flops_profiler": {"enabled": True, "profile_step": 3, "output_file": "flops.txt"}},
        {"timers": {"throughput": {"enabled": False}}, "aio": {"queue_depth": 4}},
        {"tensorboard": {"enabled": True, "output_path": "logs"}, "csv_monitor": {"enabled": True}},
        {"wandb": {"project": "dna"}, "comet": {"samples_log_interval": 10}},
        {"communication_data_type": "fp32", "seq_parallel_communication_data_type": "bf16"},
        {"sequence_parallel_size": 1, "gradient_predivide_factor": 2, "steps_per_print": 10, "log_level": "error"},
    ],
    ids=str,
)
def test_keys_that_deepspeed_has_are_taken(raw: dict[str, Any]) -> None:
    require_deepspeed_takes(EngineSettings.model_validate({"deepspeed": raw, "zero_stage": 3}))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"zero_optimisation": {}}, "no key 'zero_optimisation'; nearest valid key: 'zero_optimization'"),
        ({"zero_optimization": {"overlap_com": True}}, "nearest valid key: 'zero_optimization.overlap_comm'"),
        ({"zero_optimization": {"stage": 3}}, "set engine.zero_stage instead"),
        ({"gradient_clipping": 2.0}, "set optimizer.clip_grad_norm instead"),
        ({"fp16": {"enabled": True}}, "set engine.precision instead"),
        ({"torch_autocast": {"enabled": True}}, "set engine.precision instead"),
        ({"torch_autocast": {"dtype": "fp16"}}, "set engine.precision instead"),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, "reduce_bucket_size"),
        ({"zero_optimization": {"offload_param": {"devices": "cpu"}}}, "offload_param.devices"),
        ({"zero_optimization": {"offload_param": "cpu"}}, "offload_param: .*, not 'cpu'"),
        ({"zero_optimization": None}, "zero_optimization: .*, not None"),
        ({"prescale_gradients": "yes"}, "prescale_gradients: .*, not 'yes'"),
        ({"steps_per_print": True}, "steps_per_print: .*, not True"),
        ({"torch_autocast": {"dtype": "bf17"}}, "torch_autocast.dtype: .*'bf17'"),
        ({"data_types": {"grad_dtype": "fp32"}}, "no key 'data_types.grad_dtype'; nearest valid key: 'data_types"),
        ({"zero_optimization": {"round_robin_gradients": True}}, "zero_optimization.round_robin_gradients: not usable"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "offload_optimizer.device: not usable here"),
        ({"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}}, "offload_optimizer.ratio: not usable here"),
        ({"checkpoint": {"load_universal": True}}, "checkpoint: not usable here: checkpoints are written and read"),
        ({"tensor_parallel": {"autotp_size": 2}}, "not usable here: .* engine.zero_stage"),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size: Input should be 1, not 2"),
        ({"compile": {"deepcompile": True}}, "set engine.compile instead"),
    ],
)
def test_a_key_that_deepspeed_ignores_or_a_setting_decides_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"zero_optimization": {"leaf_module": 5}}, "leaf_module"),
        ({"aio": {"use_gds": True}}, "GDS"),
    ],
)
def test_values_that_deepspeed_refuses_together_are_refused_in_one_line(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        require_deepspeed_takes(EngineSettings.model_validate({"deepspeed": raw}))
    assert "\n" not in str(caught.value)

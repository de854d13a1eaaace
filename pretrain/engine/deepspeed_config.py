"""The DeepSpeed configuration, made from our settings and from the raw keys that a user adds."""

from collections.abc import Mapping
from typing import Any

import torch
from deepspeed.runtime.config import DeepSpeedConfig, DtypeEnum

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import EngineSettings

from .deepspeed_keys import refusal, require_valid


def deepspeed_config(
    engine: EngineSettings,
    *,
    global_batch: int,
    accumulation: int,
    world_size: int,
    clip_grad_norm: float,
) -> dict[str, Any]:
    """The dict `deepspeed.initialize` takes.

    Args:
        global_batch: windows of an optimizer step, over all ranks.
        accumulation: forward passes of one rank in one optimizer step.

    Raises:
        BadInput: engine.deepspeed holds a key or value that DeepSpeed does not take, or a key of another setting.
    """
    settings: dict[str, Any] = {
        "train_batch_size": global_batch,
        "train_micro_batch_size_per_gpu": global_batch // world_size // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip_grad_norm,
        "bf16": {"enabled": engine.precision == "bf16"},
        # no module's gradients are rounded on the way: they are float32, as the weights are
        "torch_autocast": {
            "enabled": engine.precision == "bf16-autocast",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "zero_optimization": {"stage": engine.zero_stage},
        # DeepSpeed's own CPU Adam would need a compiler, and would replace our AdamW and its no-decay groups
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
    }
    if engine.offload_optimizer:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    made = _merged(settings, engine.deepspeed)
    require_valid(engine.deepspeed, made)
    autocast = made["torch_autocast"]
    chosen = autocast["enabled"], autocast["dtype"] and DtypeEnum(autocast["dtype"]).value
    if chosen != (settings["torch_autocast"]["enabled"], torch.bfloat16):
        raise BadInput("engine.deepspeed.torch_autocast: set engine.precision instead; this key would contradict it")
    return made


def require_deepspeed_takes(engine: EngineSettings) -> None:
    """Refuse engine settings with which DeepSpeed would not start, before any rank is started.

    Raises:
        BadInput: as `deepspeed_config`, or DeepSpeed does not take the values together.
    """
    made = deepspeed_config(engine, global_batch=1, accumulation=1, world_size=1, clip_grad_norm=1.0)
    try:
        DeepSpeedConfig(made)
    except Exception as error:
        raise refusal(error) from error


def _merged(settings: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for key, value in raw.items():
        ours = merged.get(key)
        merged[key] = _merged(ours, value) if isinstance(ours, Mapping) and isinstance(value, Mapping) else value
    return merged

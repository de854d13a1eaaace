"""The DeepSpeed configuration, made from our settings and from the raw keys that a user adds."""

import difflib
from collections.abc import Mapping
from typing import Any

from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import BaseModel, ValidationError

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.config import EngineSettings

# DeepSpeed silently ignores an unknown top-level key, so only these raw keys are passed on.
_SECTIONS: dict[str, type[BaseModel]] = {"zero_optimization": DeepSpeedZeroConfig, "comms_logger": CommsLoggerConfig}
_SCALARS: dict[str, type | tuple[type, ...]] = {
    "communication_data_type": str,
    "prescale_gradients": bool,
    "gradient_predivide_factor": (int, float),
    "wall_clock_breakdown": bool,
    "memory_breakdown": bool,
    "dump_state": bool,
    "disable_allgather": bool,
    "steps_per_print": int,
}
_OURS = {
    "train_batch_size": "data.global_batch",
    "train_micro_batch_size_per_gpu": "engine.micro_batch",
    "gradient_accumulation_steps": "engine.micro_batch",
    "gradient_clipping": "optimizer.clip_grad_norm",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "bf16": "engine.precision",
    "fp16": "engine.precision",
    "activation_checkpointing": "engine.activation_checkpointing",
    "zero_optimization.stage": "engine.zero_stage",
}


def deepspeed_config(
    engine: EngineSettings,
    *,
    global_batch: int,
    accumulation: int,
    world_size: int,
    clip_grad_norm: float,
    load_universal: bool = False,
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
        "zero_optimization": {"stage": engine.zero_stage},
        # DeepSpeed's own CPU Adam would need a compiler, and would replace our AdamW and its no-decay groups
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
        "checkpoint": {"load_universal": load_universal},
    }
    if engine.offload_optimizer:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    _require_valid(engine.deepspeed)
    for key, value in engine.deepspeed.items():
        settings[key] = {**settings.get(key, {}), **value} if isinstance(value, Mapping) else value
    return settings


def _require_valid(raw: Mapping[str, Any]) -> None:
    fields = (f"{name}.{field}" for name, model in _SECTIONS.items() for field in model.model_fields)
    valid = [key for key in (*_SCALARS, *fields) if key not in _OURS]
    named = [
        key if not isinstance(value, Mapping) else f"{key}.{field}"
        for key, value in raw.items()
        for field in (value if isinstance(value, Mapping) else [""])
    ]
    for key in named:
        ours = _OURS.get(key) or _OURS.get(key.partition(".")[0])
        if ours:
            raise BadInput(f"engine.deepspeed.{key}: set {ours} instead; this key would contradict it")
        if key not in valid:
            nearest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
            raise BadInput(f"engine.deepspeed: DeepSpeed has no key {key!r}; nearest valid key: {nearest!r}")
    for key, value in raw.items():
        if key in _SCALARS and not isinstance(value, _SCALARS[key]):
            raise BadInput(f"engine.deepspeed.{key}: {value!r} is not a value DeepSpeed takes")
        if key in _SECTIONS:
            try:
                _SECTIONS[key].model_validate(value)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(str(part) for part in first["loc"])
                raise BadInput(f"engine.deepspeed.{key}.{where}: {first['msg']}") from error

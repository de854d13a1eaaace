"""The DeepSpeed configuration as a pure function of ours."""

from typing import Any

from .config import PretrainConfig


def deepspeed_config(config: PretrainConfig, world_size: int) -> dict[str, Any]:
    """The dict `deepspeed.initialize` takes.

    Raises:
        ValueError: batch sizes do not divide; see `PretrainConfig.accumulation`.
    """
    accumulation = config.accumulation(world_size)
    settings: dict[str, Any] = {
        "train_batch_size": config.data.global_batch,
        "train_micro_batch_size_per_gpu": config.data.global_batch // world_size // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optimizer.clip_grad_norm,
        "bf16": {"enabled": config.engine.precision == "bf16"},
        "zero_optimization": {"stage": config.engine.zero_stage},
        # our AdamW has the no-decay groups; DeepSpeed's own CPU Adam would need a compiler and replace them
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
    }
    if config.engine.offload_optimizer:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    return settings

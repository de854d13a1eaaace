"""Parameter groups and the learning-rate schedule."""

import math
from collections.abc import Collection

import torch

from dnachunker.pretrain.config import OptimizerSettings, ScheduleSettings


def build_adamw(
    model: torch.nn.Module, without_decay: Collection[str], settings: OptimizerSettings
) -> torch.optim.AdamW:
    """AdamW with two groups: decayed matrices, and the parameters named in `without_decay`."""
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if name in without_decay else decayed).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleSettings) -> float:
    """Learning rate of optimizer step `step` (0-based) of `steps`; a pure function, so a resume needs no state.

    Warm-up rises linearly and reaches the peak on its last step. WSD: Hu et al. 2024 (arXiv 2404.06395);
    the 1-sqrt shape: Hägele et al. 2024 (arXiv 2405.18392).
    """
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.kind == "constant":
        return peak
    if schedule.kind == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay = round(schedule.decay * steps)
        progress = max(0.0, (step - (steps - decay) + 1) / (decay + 1))
        share = 1 - (math.sqrt(progress) if schedule.decay_shape == "1-sqrt" else progress)
    return peak * (schedule.final_share + (1 - schedule.final_share) * share)

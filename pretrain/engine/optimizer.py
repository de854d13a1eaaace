"""Parameter groups and the learning-rate schedule."""

import math
import re
from collections.abc import Collection, Sequence

import torch

from dnachunker.pretrain.settings.learning import OptimizerSettings, ScheduleSettings

LR_FACTOR = "lr_factor"  # key of a parameter group: its learning rate is that of the schedule times this
_STAGE = re.compile(r"hierarchy\.(?:encoders|routers|decoders)\.(\d+)\.")


def build_adamw(
    model: torch.nn.Module,
    without_decay: Collection[str],
    settings: OptimizerSettings,
    factors: Sequence[float] = (1.0,),
) -> torch.optim.AdamW:
    """AdamW with two groups for each factor: decayed matrices, and the parameters named in `without_decay`.

    Decoupled decay is the rate times `weight_decay`, so a factor scales it too.

    Args:
        factors: on the learning rate, of each stage from the outermost in, then of the trunk; see `lr_factors`.
            Embedding, final norm and head belong to the outermost stage.
    """
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for factor in factors:
        groups |= {(factor, False): [], (factor, True): []}
    for name, parameter in model.named_parameters():
        groups[_factor_of(name, factors), name in without_decay].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": 0.0 if plain else settings.weight_decay, LR_FACTOR: factor}
            for (factor, plain), parameters in groups.items()
            if parameters
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )


def _factor_of(name: str, factors: Sequence[float]) -> float:
    if ".hierarchy.trunk." in name:
        return factors[-1]
    stage = _STAGE.search(name)
    return factors[int(stage[1]) if stage and len(factors) > 1 else 0]


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


def ratio_loss_scale(step: int, steps: int, schedule: ScheduleSettings) -> float:
    """Factor on the weight of the ratio loss at optimizer step `step` of `steps`; 1 on the last step of its warm-up."""
    warmup = round(schedule.ratio_warmup * steps)
    return min(1.0, (step + 1) / warmup) if warmup else 1.0

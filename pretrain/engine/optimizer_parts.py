"""Which parts of the weights and of Adam's moments a rank holds: where DeepSpeed keeps them at each ZeRO stage."""

from dataclasses import dataclass
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, as torch names them


@dataclass(frozen=True)
class Part:
    """A stretch of one flattened parameter that the optimizer of this rank updates.

    Attributes:
        parameter: its name.
        start: of the stretch, in values of the flattened parameter.
        weight: (values,) float32; a view of the copy that the optimizer updates.
        moments: by name, with the shape and dtype of `weight`; views too.
    """

    parameter: str
    start: int
    weight: torch.Tensor
    moments: dict[str, torch.Tensor]


def parts_of(optimizer: Any, module: torch.nn.Module, zero_stage: int, rank: int) -> list[Part]:
    """The parts that a rank holds; at ZeRO stage 0 these are all parameters.

    Args:
        optimizer: as `deepspeed.initialize` returns it.
        module: its model.
    """
    parts = []
    masters = _masters(optimizer) if zero_stage == 0 else {}
    states = _base(optimizer).state
    parameter: Any  # to which DeepSpeed has added attributes
    for name, parameter in module.named_parameters():
        if zero_stage == 0:
            flat, start, begin, length = masters.get(parameter, parameter), 0, 0, parameter.numel()
        elif zero_stage == 3:
            # every rank has as many values of a parameter; the last of them may be padding
            group, begin, share = optimizer.grad_position[optimizer.get_param_id(parameter)]
            flat, start = optimizer.fp32_partitioned_groups_flat[group], rank * share
            length = min(share, parameter.ds_numel - start)
        else:
            mapping = parameter._hp_mapping  # None where other ranks hold the whole parameter
            if mapping is None:
                continue
            flat = optimizer.optimizer.param_groups[mapping.param_group_index]["params"][0]
            start = mapping.lp_fragment_address.start
            begin, length = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
        if length <= 0:
            continue
        state = states.get(flat, {})
        weight = flat.detach().view(-1).narrow(0, begin, length)
        moments = {  # there are none before the first update
            kind: state[kind].view(-1).narrow(0, begin, length) if kind in state else torch.zeros_like(weight)
            for kind in MOMENTS
        }
        parts.append(Part(name, start, weight, moments))
    return parts


def make_moments(optimizer: Any, zero_stage: int, updates: int) -> None:
    """Give a new optimizer moments, all zero, and AdamW's count of its updates."""
    base = _base(optimizer)
    flats = (
        optimizer.fp32_partitioned_groups_flat
        if zero_stage == 3
        else [parameter for group in base.param_groups for parameter in group["params"]]
    )
    for flat in flats:
        zeros = {kind: torch.zeros_like(flat, requires_grad=False) for kind in MOMENTS}
        base.state[flat] = {"step": torch.tensor(float(updates)), **zeros}


@torch.no_grad()
def take_over_weights(optimizer: Any, zero_stage: int) -> None:
    """Set the model's weights to the optimizer's copies, which have changed; collective."""
    if zero_stage == 3:
        pairs = zip(optimizer.fp16_partitioned_groups_flat, optimizer.fp32_partitioned_groups_flat, strict=True)
        for low, high in pairs:
            low.copy_(high)
    elif zero_stage:
        optimizer.update_lp_params()
    else:
        for low, high in _masters(optimizer).items():
            low.copy_(high)


def _base(optimizer: Any) -> torch.optim.Optimizer:
    """AdamW inside DeepSpeed's wrapper; at ZeRO stage 0 in float32 there is no wrapper."""
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer


def _masters(optimizer: Any) -> dict[torch.nn.Parameter, torch.Tensor]:
    """At ZeRO stage 0 in bf16, the float32 copy of each of the model's parameters."""
    low, high = (getattr(optimizer, name, ()) for name in ("fp16_groups", "fp32_groups"))
    return {p: copy for group, copies in zip(low, high, strict=True) for p, copy in zip(group, copies, strict=True)}

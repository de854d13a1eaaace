"""Initial values: Mamba's own for its parameters, identity for routers, small normals elsewhere.

Uses transformers' guarded functions, which do not touch parameters loaded from a checkpoint.
"""

import math

import torch
from torch import nn
from transformers import initialization as init

from .bimamba import Direction
from .configuration_dnachunker import DNAChunkerConfig
from .routing import BoundaryProbability

STEP_FLOOR = 1e-4  # smallest initial step size
# Standard deviation of the embedding. The network has no bias, so the vector of [MASK] is the only constant of a masked
# position. With 0.02, a few optimizer steps make the layers' outputs larger than this vector, and the trunk takes the
# constant part of its prediction from the mean over the window instead: the loss leaps where this mean is weak. With 1,
# the embedding outweighs the trunk, which the model then hardly uses.
EMBEDDING_STD = 0.1


def initialize(module: nn.Module, config: DNAChunkerConfig) -> None:
    """Initialise the parameters `module` itself owns; called for every module that has some, children first.

    Projections back into a residual stream start like all others: where code is not its own, transformers passes over
    modules without parameters of their own, so a layer cannot scale its projections here.
    """
    std = config.initializer_range
    if isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None:
        init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        init.normal_(module.weight, std=EMBEDDING_STD)
    elif isinstance(module, nn.Linear):
        init.normal_(module.weight, std=std)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        init.ones_(module.weight)
    elif isinstance(module, BoundaryProbability):
        init.eye_(module.query)
        init.eye_(module.key)
    elif isinstance(module, Direction):
        _initialize_direction(module, config)
    elif isinstance(module, nn.Conv1d):
        bound = 1 / math.sqrt(module.kernel_size[0])
        init.uniform_(module.weight, -bound, bound)


def _initialize_direction(module: Direction, config: DNAChunkerConfig) -> None:
    """Mamba's conventions: steps log-uniform in [time_step_min, time_step_max], A = -(1..N), D = 1."""
    bound = 1 / math.sqrt(config.conv_width)
    init.uniform_(module.conv_weight, -bound, bound)
    init.zeros_(module.conv_bias)
    bound = config.dt_rank**-0.5
    init.uniform_(module.dt_proj.weight, -bound, bound)
    device = module.A_log.device
    low, high = math.log(config.time_step_min), math.log(config.time_step_max)
    steps = torch.exp(low + torch.rand(config.inner_width, device=device) * (high - low)).clamp(min=STEP_FLOOR)
    init.copy_(module.dt_proj.bias, steps + torch.log(-torch.expm1(-steps)))  # inverse of softplus
    rates = torch.arange(1, config.state_size + 1, dtype=torch.float32, device=device)
    init.copy_(module.A_log, rates.log().expand(config.inner_width, -1))
    init.ones_(module.D)

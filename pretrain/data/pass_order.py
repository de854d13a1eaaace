"""Which windows of a step share a forward pass, where ranks wait for each other after every one: those of like work.

From ZeRO stage 2 on every backward pass reduces gradients, and at stage 3 every pass gathers parameters: it takes as
long as that of the slowest rank. Chunks are learned, and windows differ in work; if every rank begins with the windows
that will cost most, those that meet are alike. Which windows a rank has, what is masked in them and what is summed over
a step stay the same.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from dnachunker.model.alphabet import MASK_ID
from dnachunker.pretrain.config import PretrainConfig

from .masking import Batch


def pass_order(config: PretrainConfig, world_size: int) -> Callable[[Batch], torch.Tensor] | None:
    """How the windows of a rank's step are put in order before they fill its passes; None: as they come.

    Where places for chunks are foreseen, all passes are of one size already, and the fullest decides how large.
    """
    alone = world_size == 1 or config.accumulation(world_size) == 1
    if alone or config.engine.zero_stage < 2 or config.engine.foresee_chunks:
        return None
    model = config.model
    return partial(by_expected_chunks, target_ratio=model.target_ratios[0], mask_protection=model.mask_protection)


def bases_of_chance(config: PretrainConfig, world_size: int) -> int:
    """Bases over which what is masked in a pass evens out: those of the pass, but of a window where these are in order.

    The first passes then hold the windows with most masks; only a bound that holds for each of them holds for all.
    """
    if pass_order(config, world_size):
        return min(stage.seq_len for stage in config.data.stages)
    passes = world_size * config.accumulation(world_size)
    return min(stage.global_batch * stage.seq_len for stage in config.data.stages) // passes


def by_expected_chunks(batch: Batch, target_ratio: float, *, mask_protection: bool) -> torch.Tensor:
    """(B,) int64: rows, the one of most `expected_chunks` first, equals as they came; the host waits for nothing."""
    chunks = expected_chunks(batch, target_ratio, mask_protection=mask_protection)
    return torch.argsort(chunks, descending=True, stable=True)


def expected_chunks(batch: Batch, target_ratio: float, *, mask_protection: bool) -> torch.Tensor:
    """Chunks of each window at stage 0, by what is known before the network runs.

    How a router will cut is not known before it has spoken. What masks force is, and the rest is near its target:
    f + alpha (L - f) chunks of L bases, f of which are masks or follow one.

    Args:
        target_ratio: alpha of stage 0, natural chunks a base.

    Returns:
        (B,) float32, on the device of the batch.
    """
    chunks = target_ratio * batch.attention_mask.sum(1)
    if mask_protection:
        masked = batch.input_ids == MASK_ID
        forced = (masked | F.pad(masked[:, :-1], (1, 0))) & batch.attention_mask
        chunks = chunks + (1 - target_ratio) * forced.sum(1)
    return chunks

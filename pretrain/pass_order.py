"""Which windows of a step share a forward pass, where ranks wait for each other after every one: those of like work.

At ZeRO stage 3 each pass gathers parameters, so it takes as long as that of the slowest rank. Chunks are learned, and
windows differ in work; if every rank begins with the windows that will cost most, those that meet are alike. Which
windows a rank has, what is masked in them and what is summed over a step stay the same.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from model.alphabet import MASK_ID

from .config import PretrainConfig
from .masking import Batch


def pass_order(config: PretrainConfig, world_size: int) -> Callable[[Batch], torch.Tensor] | None:
    """How the windows of a rank's step are put in order before they fill its passes; None: as they come."""
    if config.engine.zero_stage < 3 or world_size == 1 or config.accumulation(world_size) == 1:
        return None
    model = config.model
    return partial(by_expected_chunks, target_ratio=model.target_ratios[0], mask_protection=model.mask_protection)


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

"""Gives windows of similar work to the same pass on all ranks, where ranks wait for each other after every pass.

From ZeRO stage 2 on every backward pass reduces gradients, and at ZeRO stage 3 every pass gathers parameters, so a pass
takes as long as on the slowest rank. Chunks are learned, so windows differ in work. If every rank starts with its
windows of most work, simultaneous passes cost about the same. The windows of a rank, their masks and the sums over a
step stay the same.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from dnachunker.model.alphabet import MASK_ID
from dnachunker.pretrain.config import DataSettings, EngineSettings, ModelSettings

from .masking import Batch


def pass_order(
    engine: EngineSettings, model: ModelSettings, *, world_size: int, accumulation: int
) -> Callable[[Batch], torch.Tensor] | None:
    """The function that orders a rank's windows of a step before they fill its passes; None: keep their order.

    With `engine.foresee_chunks` all passes have the same capacity, which the fullest pass decides: no order helps.
    """
    if world_size == 1 or accumulation == 1 or engine.zero_stage < 2 or engine.foresee_chunks:
        return None
    return partial(by_expected_chunks, target_ratio=model.target_ratios[0], mask_protection=model.mask_protection)


def bases_of_chance(data: DataSettings, *, passes: int, ordered: bool, stretches: int = 1) -> int:
    """The number of bases over which the share of masks must be bounded.

    Normally it is the bases of one forward pass. If windows are ordered, the first passes hold the windows with most
    masks, and only a bound on each window bounds them: then it is the bases of one window.

    Args:
        passes: forward passes of all ranks in one optimizer step; those of a context group are one.
        stretches: into which each window is split.
    """
    if ordered:
        return max(1, min(phase.seq_len for phase in data.phases) // stretches)
    return max(1, min(phase.global_batch * phase.seq_len for phase in data.phases) // passes // stretches)


def by_expected_chunks(batch: Batch, target_ratio: float, *, mask_protection: bool) -> torch.Tensor:
    """(B,) int64: rows from most to fewest `expected_chunks`, ties in order; does not wait for the device."""
    chunks = expected_chunks(batch, target_ratio, mask_protection=mask_protection)
    return torch.argsort(chunks, descending=True, stable=True)


def expected_chunks(batch: Batch, target_ratio: float, *, mask_protection: bool) -> torch.Tensor:
    """Chunks of each window at stage 0, estimated before the network runs.

    Masks tell the forced boundaries. The router's boundaries are not known yet, but their share is near its target. So
    L bases, of which f are masks or follow a mask, give about f + alpha (L - f) chunks.

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

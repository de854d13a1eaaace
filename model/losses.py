"""The two losses. The caller may supply the normaliser of each, so that micro-batching changes neither."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .network_fields import counts_forced
from .routing import Segmentation


def mlm_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, normalizer: Tensor | float | None) -> Tensor:
    """Weighted masked-language-model cross-entropy, sum(w * ce) / normalizer.

    Args:
        logits: (T, V) float32. labels: (T,) int64, -100 where there is nothing to predict.
        weights: (T,) float, such as 0.1 on soft-masked bases; None for 1.
        normalizer: sum of weights over the global batch; default: over these labels. 0 gives loss 0.

    Returns:
        Scalar float32.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=-100, reduction="none")  # 0 where ignored
    counted = (labels != -100).to(losses.dtype)
    if weights is not None:
        counted = counted * weights.to(losses.dtype)
    tiny = torch.finfo(losses.dtype).tiny
    if isinstance(normalizer, float | int):  # stays on the host: copying it over would wait for the device
        return (counted * losses).sum() / max(normalizer, tiny)
    total = counted.sum() if normalizer is None else normalizer.to(losses.device, losses.dtype)
    return (counted * losses).sum() / total.clamp_min(tiny)


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The loss of a sequence classifier, as everywhere in Hugging Face.

    Args:
        logits: (B, K) float32.
        labels: (B,) int64 for classes, (B,) or (B, K) float for regression, (B, K) float for several labels.
        problem_type: `regression`, `single_label_classification` or `multi_label_classification`; None: it follows
            from K and the dtype of the labels.

    Returns:
        Scalar float32.
    """
    if problem_type is None:
        several = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem_type = "regression" if logits.shape[1] == 1 else several
    if problem_type == "regression":
        return F.mse_loss(logits.view(labels.shape), labels.float())
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.flatten())
    return F.binary_cross_entropy_with_logits(logits, labels.float())


def labelled_rows(labels: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """The positions that have a label, in a buffer of fixed size, so that the host need not wait for their count.

    Args:
        labels: (T,) int64, -100 where there is nothing to predict.
        capacity: P, size of the buffer.

    Returns:
        rows (P,) int64, 0 beyond the last label; their labels (P,), -100 there; () bool, whether labels were left out.
    """
    labelled = labels != -100
    count = labelled.sum()
    rows = torch.nonzero_static(labelled, size=capacity, fill_value=0).squeeze(1)
    filled = torch.arange(capacity, device=labels.device) < count
    return rows, torch.where(filled, labels[rows], -100), count > capacity


def void_where(lost: Sequence[Tensor], loss: Tensor) -> Tensor:
    """The loss; NaN, with NaN gradients, if any of `lost` (() bool each) is set.

    Replacing the loss by a constant would give gradients of zero, and momentum or weight decay would still act.
    """
    return loss * torch.where(torch.stack(tuple(lost)).any(), torch.nan, 1.0) if lost else loss


def ratio_loss(segmentation: Segmentation, target: float, *, forced: bool = False) -> Tensor:
    """The ratio loss of H-Net (arXiv 2507.07955, eq. 10), one value per sequence.

    b p / alpha + (1 - b)(1 - p) / (1 - alpha), with b the share of boundaries and p the mean probability over the
    positions of a sequence; its minimum is 1, at b = p = alpha. Gradients reach the router through p.

    Args:
        target: alpha.
        forced: count the boundaries of mask protection too. Under 12 % masks these alone exceed the target at stage 1
            and the router collapses; hence they are not counted by default.

    Returns:
        (B,) float32, 0 for empty sequences.
    """
    packing = segmentation.packing
    counted = segmentation.boundary if forced else segmentation.natural
    b = packing.mean(counted.to(segmentation.probability.dtype))
    p = packing.mean(segmentation.probability)
    loss = b * p / target + (1 - b) * (1 - p) / (1 - target)
    return torch.where(packing.whole_lengths > 0, loss, 0.0)


def total_ratio_loss(
    stages: Sequence[Segmentation], targets: Sequence[float], boundaries: str, normalizer: Tensor | float | None
) -> Tensor:
    """Sum over stages and sequences of `ratio_loss`, divided by normalizer (default: the number of sequences)."""
    losses = [
        ratio_loss(stage, target, forced=counts_forced(boundaries, number))
        for number, (stage, target) in enumerate(zip(stages, targets, strict=True))
    ]
    total = torch.stack(losses).sum() / stages[0].packing.ranks  # of split sequences, each rank has the whole loss
    return total / (len(losses[0]) if normalizer is None else normalizer)

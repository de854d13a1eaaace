"""The objective of a run: predict masked bases from both sides, or each base from the bases before it."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dnachunker.model.alphabet import BOS_ID, MASK_ID, N_ID, PAD_ID
from dnachunker.pretrain.config import MaskingSettings

from .headline import MASKED, NEXT_BASE, Headline
from .masking import IGNORED_LABEL, Batch, MaskingRates, corrupt, repeats_of, uncorrupted_ids


@dataclass(frozen=True)
class Judged:
    """How a batch was predicted. All (B, L), aligned with the windows' bases."""

    losses: Tensor  # float32 nats, 0 where there is no label
    labels: Tensor  # int64 token ids, IGNORED_LABEL where there is no label
    correct: Tensor  # bool
    selected: Tensor  # bool, positions of the training loss
    weights: Tensor  # float32, of the training loss, 0 where nothing is selected
    scored: Tensor  # bool, positions of the headline
    is_repeat: Tensor  # bool


class Objective(Protocol):
    """How windows become batches, and how a model's predictions are judged."""

    headline: Headline
    leading: int  # tokens before a window's first base

    def batch(self, packed: Tensor, keys: Tensor, *, out: Batch | None = None) -> Batch:
        """Inputs and labels of (B, L) uint8 packed windows; `out` may be written over, as in `masking.corrupt`."""

    def label_capacity(self, bases: int) -> float | None:
        """`label_capacity` of `DNAChunkerConfig`, for batches of so many bases."""

    def plain_inputs(self, packed: Tensor) -> dict[str, Tensor]:
        """Inputs of the model for uncorrupted windows."""

    def judge(self, batch: Batch, logits: Tensor) -> Judged:
        """Compare the logits of a batch with its labels."""


class MaskedBases:
    """BERT's objective. The headline is over [MASK] positions only: selected bases that are not hidden are easier."""

    headline, leading = MASKED, 0

    def __init__(self, rates: MaskingRates) -> None:
        self._rates = rates

    def batch(self, packed: Tensor, keys: Tensor, *, out: Batch | None = None) -> Batch:
        return corrupt(packed, keys, self._rates, out=out)

    def label_capacity(self, bases: int) -> float | None:
        return self._rates.most_selected(bases)

    def plain_inputs(self, packed: Tensor) -> dict[str, Tensor]:
        ids = uncorrupted_ids(packed)
        return {"input_ids": ids, "attention_mask": ids != PAD_ID}

    def judge(self, batch: Batch, logits: Tensor) -> Judged:
        return _judged(logits, batch.labels, batch.loss_weights, batch.input_ids == MASK_ID, batch.is_repeat)


class NextBase:
    """Predict every A, C, G and T from the bases before it in its window, and the first from [BOS]; no corruption."""

    headline, leading = NEXT_BASE, 1

    def __init__(self, repeat_weight: float) -> None:
        self._repeat_weight = repeat_weight

    def batch(self, packed: Tensor, keys: Tensor, *, out: Batch | None = None) -> Batch:
        """A (B, L + 1) batch with [BOS] first. Labels are aligned with the inputs; the model's class shifts them."""
        ids, is_repeat = _after_bos(uncorrupted_ids(packed)), F.pad(repeats_of(packed), (1, 0))
        known = (ids != BOS_ID) & (ids != PAD_ID) & (ids != N_ID)
        weights = torch.where(is_repeat, self._repeat_weight, 1.0) * known
        return Batch(ids, ids != PAD_ID, torch.where(known, ids, IGNORED_LABEL), weights, is_repeat)

    def label_capacity(self, bases: int) -> float | None:
        """None: nearly every base is a label."""

    def plain_inputs(self, packed: Tensor) -> dict[str, Tensor]:
        ids = _after_bos(uncorrupted_ids(packed))
        return {"input_ids": ids, "attention_mask": ids != PAD_ID}

    def judge(self, batch: Batch, logits: Tensor) -> Judged:
        labels = batch.labels[:, 1:]
        return _judged(
            logits[:, :-1], labels, batch.loss_weights[:, 1:], labels != IGNORED_LABEL, batch.is_repeat[:, 1:]
        )


def objective_of(masking: MaskingSettings, *, causal: bool) -> Objective:
    """The objective of a run; a causal model predicts the next base."""
    return NextBase(masking.repeat_weight) if causal else MaskedBases(MaskingRates(**masking.model_dump()))


def _after_bos(ids: Tensor) -> Tensor:
    return F.pad(ids, (1, 0), value=BOS_ID)


def _judged(logits: Tensor, labels: Tensor, weights: Tensor, scored: Tensor, is_repeat: Tensor) -> Judged:
    losses = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED_LABEL, reduction="none")
    return Judged(losses, labels, logits.argmax(-1) == labels, labels != IGNORED_LABEL, weights, scored, is_repeat)

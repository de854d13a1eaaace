"""Known silent failures of this architecture, measured on held-out windows: each has a number, a threshold, a warning.

*Mask leakage*: predictions at [MASK] do not need the trunk. *Cascading boundaries*: one base more on the left moves
every boundary. *Over-compression*: a stage cuts almost nowhere or almost everywhere, or makes too few chunks of
repeats. Of a causal model, all bases are predicted and none is masked: when they do not need the trunk, it is *idle*.
Everything is a sum over windows, so that neither batch size nor the number of ranks changes a result.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dnachunker.model.alphabet import FIRST_BASE_ID
from dnachunker.model.packing import Packing
from dnachunker.pretrain.data.headline import MASKED, Headline, headline_of, stages_of
from dnachunker.pretrain.data.masking import IGNORED_LABEL, Batch, MaskingRates
from dnachunker.pretrain.data.objective import Judged, MaskedBases, Objective
from dnachunker.pretrain.order.counter_random import hash_positions

from .trunk_replacement import Replacement, trunk_replaced

LEARNT_NATS = 0.02  # a model whose loss is lower than order 0 by this much has learnt more than base frequencies
LEAST_TRUNK_NATS = 0.01  # such a model must lose this much without its trunk
LEAST_SHIFT_OVERLAP = 0.5
COMPRESSION_RANGE = (0.05, 0.95)
LEAST_REPEAT_CHUNKS = 0.5  # chunks per base in repeats, as a share of those elsewhere

_BASES = 4
_MASKED_BASES = MaskedBases(MaskingRates())


@dataclass(frozen=True)
class TrainingWarning:
    """A threshold that was crossed: `name` for filters and tags, `message` for people."""

    name: str
    message: str


def diagnose(
    model: nn.Module, batches: Iterable[Batch], *, sum_over_ranks: Callable[[Tensor], Tensor] = lambda sums: sums
) -> dict[str, float]:
    """Measure a masked language model on corrupted windows; five forward passes a batch, in evaluation mode.

    Collective when the model is: every rank passes the same number of batches.

    Args:
        model: called as `DNAChunkerForMaskedLM`; may be wrapped by a training engine that is a Module itself.
        batches: this rank's share of the windows.
        sum_over_ranks: elementwise sum of a float64 vector over all ranks.

    Returns:
        Averages over all windows; NaN where there is nothing to average. `order0`: nats of the scored bases' own
        frequencies; `masked_loss`: the model's. `trunk_mean_cost`, `trunk_shuffle_cost`: nats that the predictions
        lose when the trunk's output is replaced by its mean, or shuffled, among the chunks of the same sequence that
        hold a mask, and among those that do not. Per stage, with `_stage0` and so on: `compression`, chunks per
        position of unmasked sequence; `shift_overlap`, Jaccard index of the boundaries of a window and of the same
        window without its first base; `repeat_chunks`, `unique_chunks`, chunks per base inside and outside of
        repeats. `repeat_loss`, `unique_loss`: likewise.
    """
    names: tuple[str, ...] = ()
    sums: Tensor | float = 0.0
    for batch in batches:
        names, rows = window_sums(model, batch)
        sums = sums + rows.sum(0)
    assert isinstance(sums, Tensor), "there is at least one batch"
    return summarise(names, sum_over_ranks(sums))


def window_sums(model: nn.Module, batch: Batch, objective: Objective = _MASKED_BASES) -> tuple[tuple[str, ...], Tensor]:
    """What each window of a batch adds to the diagnostics; for callers that must leave windows out.

    Args:
        batch: made by `objective`, and judged by it.

    Returns:
        K names and (B, K) float64; `summarise` takes the names and the sum over windows.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        judged, *without_trunk = [
            _judge(model, batch, objective, replacement) for replacement in (None, mean_in_class, shuffle_in_class)
        ]
        truth = uncorrupted(batch)
        plain = model(input_ids=truth, attention_mask=batch.attention_mask).boundaries
        rest = torch.arange(truth.shape[1], device=truth.device) != objective.leading  # all but the first base
        shifted = model(input_ids=truth[:, rest], attention_mask=batch.attention_mask[:, rest]).boundaries
    model.train(was_training)
    in_repeat = batch.is_repeat & batch.attention_mask
    scored, losses = judged.scored, judged.losses
    repeat = scored & judged.is_repeat
    trunk_mean, trunk_shuffled = (answers.losses * scored for answers in without_trunk)
    columns = {
        "scored": scored, "loss": losses * scored, "mean_loss": trunk_mean, "shuffled_loss": trunk_shuffled,
        **{f"scored_{base}": scored & (judged.labels == FIRST_BASE_ID + base) for base in range(_BASES)},
        "repeat_scored": repeat, "repeat_loss": losses * repeat,
        "bases": batch.attention_mask, **{f"chunks{stage}": cuts for stage, cuts in enumerate(plain)},
        "repeat_bases": in_repeat, **{f"repeat_chunks{stage}": cuts & in_repeat for stage, cuts in enumerate(plain)},
    }  # fmt: skip
    for stage, (cuts, later) in enumerate(zip(plain, shifted, strict=True)):
        # the first token of either window starts a chunk whatever the router says
        columns[f"shift_common{stage}"] = cuts[:, 2:] & later[:, 1:]
        columns[f"shift_either{stage}"] = cuts[:, 2:] | later[:, 1:]
    return tuple(columns), torch.stack([column.double().sum(1) for column in columns.values()], dim=1)


def summarise(names: Iterable[str], sums: Tensor, headline: Headline = MASKED) -> dict[str, float]:
    """Averages, as `diagnose` returns them, from what `window_sums` returns.

    Args:
        sums: (K,), over all windows of all ranks.
        headline: names the loss.
    """
    total = dict(zip(names, sums.tolist(), strict=True))

    def ratio(part: float, whole: float) -> float:
        return part / whole if whole else math.nan

    letters = [ratio(total[f"scored_{base}"], total["scored"]) for base in range(_BASES)]
    loss = ratio(total["loss"], total["scored"])
    stages = stages_of(total, "chunks")
    counted = ("scored", "loss", "bases", *(f"chunks{stage}" for stage in stages))
    unique = {name: total[name] - total[f"repeat_{name}"] for name in counted}
    metrics = {
        "order0": -sum(share * math.log(share) for share in letters if share),
        f"{headline.key}_loss": loss,
        "trunk_mean_cost": ratio(total["mean_loss"], total["scored"]) - loss,
        "trunk_shuffle_cost": ratio(total["shuffled_loss"], total["scored"]) - loss,
        "repeat_loss": ratio(total["repeat_loss"], total["repeat_scored"]),
        "unique_loss": ratio(unique["loss"], unique["scored"]),
    }
    positions = total["bases"]
    for stage in stages:
        chunks = total[f"chunks{stage}"]
        metrics[f"compression_stage{stage}"] = ratio(chunks, positions)
        metrics[f"shift_overlap_stage{stage}"] = ratio(total[f"shift_common{stage}"], total[f"shift_either{stage}"])
        metrics[f"repeat_chunks_stage{stage}"] = ratio(total[f"repeat_chunks{stage}"], total["repeat_bases"])
        metrics[f"unique_chunks_stage{stage}"] = ratio(unique[f"chunks{stage}"], unique["bases"])
        positions = chunks
    return metrics


def warnings_of(metrics: dict[str, float], *, learned: bool = True) -> list[TrainingWarning]:
    """The failures that the metrics of `diagnose` show; empty for a healthy model.

    Args:
        learned: routers chose the boundaries. Nothing is said about boundaries that a tokenizer chose.
    """
    found = []
    headline = headline_of(metrics)
    learnt = metrics["order0"] - metrics[f"{headline.key}_loss"]
    owed = min(metrics["trunk_mean_cost"], metrics["trunk_shuffle_cost"])
    if learnt >= LEARNT_NATS and owed < LEAST_TRUNK_NATS and headline != MASKED:
        found.append(
            TrainingWarning(
                "idle_trunk",
                f"next-base predictions are {learnt:.3f} nats better than order 0, yet without the trunk they lose "
                f"only {owed:.4f} (at least {LEAST_TRUNK_NATS} expected): so far the layers around it do the work",
            )
        )
    elif learnt >= LEARNT_NATS and owed < LEAST_TRUNK_NATS:
        found.append(
            TrainingWarning(
                "mask_leakage",
                f"[MASK] predictions are {learnt:.3f} nats better than order 0, yet without the trunk they lose only "
                f"{owed:.4f} (at least {LEAST_TRUNK_NATS} expected): they do not need the chunks. "
                "Check model.mask_protection and model.residual_gating",
            )
        )
    low, high = COMPRESSION_RANGE
    for stage in stages_of(metrics, "compression_stage") if learned else ():
        compression = metrics[f"compression_stage{stage}"]
        if not low <= compression <= high:
            found.append(
                TrainingWarning(
                    "over_compression" if compression < low else "no_compression",
                    f"stage {stage} makes {compression:.3f} chunks of a position of unmasked sequence, outside "
                    f"[{low}, {high}]: its router has collapsed. Check model.ratio_loss_weight and ratio_boundaries",
                )
            )
        overlap = metrics[f"shift_overlap_stage{stage}"]
        if overlap < LEAST_SHIFT_OVERLAP:
            found.append(
                TrainingWarning(
                    "cascading_boundaries",
                    f"stage {stage} keeps {overlap:.2f} of its boundaries when a window loses its first base (at least "
                    f"{LEAST_SHIFT_OVERLAP} expected): its boundaries depend on where the window starts",
                )
            )
        repeats, others = metrics[f"repeat_chunks_stage{stage}"], metrics[f"unique_chunks_stage{stage}"]
        if repeats < LEAST_REPEAT_CHUNKS * others and metrics["repeat_loss"] > metrics["unique_loss"]:
            found.append(
                TrainingWarning(
                    "repeats_over_compressed",
                    f"stage {stage} spends {repeats:.3f} chunks a base on repeats and {others:.3f} elsewhere, and "
                    f"predicts repeats worse ({metrics['repeat_loss']:.3f} against {metrics['unique_loss']:.3f} nats)",
                )
            )
    return found


def uncorrupted(batch: Batch) -> Tensor:
    """(B, L) int64: the token ids before corruption; labels hold what was selected."""
    return torch.where(batch.labels != IGNORED_LABEL, batch.labels, batch.input_ids)


def mean_in_class(output: Tensor, chunks: Packing, holds_mask: Tensor) -> Tensor:
    """Each chunk's vector replaced by the mean over its class: same sequence, holding a mask or not. (C, D)."""
    group = _class_of_chunk(chunks, holds_mask)
    count = 2 * len(chunks.lengths)
    sums = output.new_zeros(count, output.shape[1], dtype=torch.float32).index_add(0, group, output.float())
    sizes = torch.bincount(group, minlength=count).clamp_min(1)
    return (sums / sizes.unsqueeze(-1))[group].to(output.dtype)


def shuffle_in_class(output: Tensor, chunks: Packing, holds_mask: Tensor) -> Tensor:
    """Chunk vectors permuted within each class, the same way whatever else is in the batch. (C, D)."""
    group = _class_of_chunk(chunks, holds_mask)
    bits = hash_positions(torch.zeros(1, dtype=torch.int64, device=output.device), chunks.max_length)[0]
    shuffled = bits[chunks.offset].argsort()
    source = shuffled[group[shuffled].argsort(stable=True)]
    return torch.empty_like(output).index_copy(0, group.argsort(stable=True), output[source])


def _class_of_chunk(chunks: Packing, holds_mask: Tensor) -> Tensor:
    return 2 * chunks.sequence + holds_mask.long()


def _judge(model: nn.Module, batch: Batch, objective: Objective, replacement: Replacement | None) -> Judged:
    with nullcontext() if replacement is None else trunk_replaced(model, replacement):
        logits: Any = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return objective.judge(batch, logits)

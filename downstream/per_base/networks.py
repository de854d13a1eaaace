"""Train a network on windows of a labelled genome, and predict the class of every base of regions."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.classification.classifier import learning_rate_share, parameter_groups
from dnachunker.downstream.exported import make_deterministic
from dnachunker.downstream.windows import Window, tile

from .config import AnnotateConfig, Method
from .convolutions import ConvolutionalSegmenter, width_of_size
from .data import LabelledGenome, Split, draw_windows
from .labels import BaseLabels
from .scores import average_precisions
from .track_values import pearson

# Called after each step with (step, loss).
OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Fitted:
    """A trained network.

    Attributes:
        validation: score of the validation regions at `step`, the best of `history`: mean AUPRC over the classes, or
            Pearson's r of numbers.
        history: (step, mean training loss since the last entry, validation score).
        parameters: how many were trained.
        diverged: whether a loss, a gradient or a prediction was not finite, which ended training.
    """

    network: nn.Module
    validation: float
    step: int
    history: tuple[tuple[int, float, float], ...]
    parameters: int
    diverged: bool


def build(data: LabelledGenome, method: Method, config: AnnotateConfig, seed: int) -> nn.Module:
    """An untrained per-base classifier.

    full and probe have the exported weights and a random head, random-full has random weights, and cnn has as many
    parameters as the exported model.
    """
    exported, classes = data.exported, len(data.labels.classes)
    network = exported.network("bases", classes=classes, random_weights=method == "random-full", seed=seed)
    if method == "cnn":
        size = sum(parameter.numel() for parameter in network.parameters())
        width = width_of_size(size, config.cnn_layers, config.cnn_kernel)
        torch.manual_seed(seed)
        network = ConvolutionalSegmenter(
            exported.config.vocab_size, classes, width=width, layers=config.cnn_layers, kernel=config.cnn_kernel
        ).to(exported.device)
    if method == "probe":
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith("classifier."))
    return network


def train(
    data: LabelledGenome,
    split: Split,
    method: Method,
    config: AnnotateConfig,
    seed: int,
    *,
    on_step: OnStep | None = None,
) -> Fitted:
    """Train until the validation score stops improving, then restore the weights of the best score.

    The windows, their strands and the weights are a pure function of `seed` on the same machine.
    """
    make_deterministic(seed)
    network = build(data, method, config, seed)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    rate = config.probe_learning_rate if method == "probe" else config.learning_rate
    optimizer = torch.optim.AdamW(parameter_groups(network, config.weight_decay), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, config.steps, config.warmup)
    )
    weights = _class_weights(data, split, config)
    truth = data.read_labels(split.validation)
    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
    history: list[tuple[int, float, float]] = []
    losses: list[float] = []
    worse = 0
    diverged = False
    for step in range(1, config.steps + 1):
        network.train()
        drawn = draw_windows(split.train, data.window, config.batch_size, np.random.default_rng([seed, step]))
        loss = _loss(data, network, drawn, weights, config)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip_grad_norm)
        losses.append(float(loss.detach()))
        diverged = not np.isfinite([losses[-1], float(norm)]).all()
        if diverged:
            break
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step, losses[-1])
        if step % config.validate_every == 0 or step == config.steps:
            probabilities = predict(data, network, split.validation, config)
            diverged = not np.isfinite(probabilities).all()
            if diverged:
                break
            score = _score(data, truth, probabilities)
            history.append((step, float(np.mean(losses)), score))
            losses, worse = [], worse + 1
            if score > best[0]:
                best = (score, step, {name: parameter.detach().clone() for name, parameter in trained.items()})
                worse = 0
            if worse >= config.patience:
                break
    network.load_state_dict(best[2], strict=False)
    size = sum(parameter.numel() for parameter in trained.values())
    return Fitted(network.eval(), best[0], best[1], tuple(history), size, diverged)


def _class_weights(data: LabelledGenome, split: Split, config: AnnotateConfig) -> Tensor | None:
    """(classes,) weights frequency^-class_weight_exponent, scaled so that their mean over all training bases is 1.

    None where the labels are numbers.
    """
    if not isinstance(data.labels, BaseLabels):
        return None
    counts = data.labels.counts(split.train)
    weights = np.maximum(counts, 1.0) ** -config.class_weight_exponent
    scaled = (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)
    return torch.from_numpy(scaled).to(data.exported.device)


def _score(data: LabelledGenome, truth: NDArray[Any], predicted: NDArray[np.float32]) -> float:
    if isinstance(data.labels, BaseLabels):
        return float(np.nanmean(average_precisions(truth, predicted)))
    return pearson(truth, predicted[:, 0])


def predict(
    data: LabelledGenome, network: nn.Module, regions: Sequence[Region], config: AnnotateConfig
) -> NDArray[np.float32]:
    """Class probabilities (L, classes) of regions, one after the other, or numbers (L, 1); logits are averaged over
    strands.
    """
    network.eval()
    exported = data.exported
    lead = len(exported.lead)
    parts = []
    with torch.no_grad():
        for part in _batched(_tiled(data, regions), exported.batch_rows(data.window)):
            encoded = [data.read(Region(w.contig, w.start, w.end))[0] for w in part]
            ids, mask = exported.batch(encoded)
            logits = [network(input_ids=ids, attention_mask=mask).logits[:, lead:].float()]
            if config.rc_average:
                ids, mask = exported.batch([exported.reverse_complement(row) for row in encoded])
                other = network(input_ids=ids, attention_mask=mask).logits[:, lead:].float()
                logits.append(_turned(other, [len(row) for row in encoded])[..., data.labels.opposite])
            mean = torch.stack(logits).mean(0)
            table = (mean.softmax(-1) if isinstance(data.labels, BaseLabels) else mean).cpu().numpy()
            parts += [table[row, w.kept] for row, w in enumerate(part)]
    return np.concatenate(parts)


def _loss(
    data: LabelledGenome,
    network: nn.Module,
    drawn: Sequence[tuple[Region, bool]],
    weights: Tensor | None,
    config: AnnotateConfig,
) -> Tensor:
    exported = data.exported
    sequences, targets = [], []
    for region, flip in drawn:
        sequence, labels = data.read(region)
        if flip and config.rc_augment:
            sequence, labels = exported.reverse_complement(sequence), data.labels.turned(labels)
        sequences.append(sequence)
        targets.append(labels)
    ids, mask = exported.batch(sequences)
    lead = len(exported.lead)
    table = np.full(tuple(ids.shape), data.labels.missing, targets[0].dtype)
    for row, labels in enumerate(targets):
        table[row, lead : lead + len(labels)] = labels
    logits: Tensor = network(input_ids=ids, attention_mask=mask).logits.flatten(0, 1).float()
    wanted = torch.from_numpy(table).flatten().to(ids.device)
    if isinstance(data.labels, BaseLabels):
        missing = data.labels.missing
        losses = F.cross_entropy(logits, wanted, weight=weights, ignore_index=missing, reduction="sum")
        return losses / (wanted != missing).sum().clamp_min(1)
    known = wanted.isfinite()
    return ((logits[:, 0] - wanted)[known] ** 2).sum() / known.sum().clamp_min(1)


def _tiled(data: LabelledGenome, regions: Sequence[Region]) -> Iterator[Window]:
    for region in regions:
        yield from tile(region, data.genome.lengths[region.contig], data.window, data.flank)


def _batched(windows: Iterator[Window], rows: int) -> Iterator[list[Window]]:
    while part := list(itertools.islice(windows, rows)):
        yield part


def _turned(table: Tensor, lengths: Sequence[int]) -> Tensor:
    """(B, L, K) with each row's first `length` positions in reverse order."""
    turned = table.clone()
    for row, length in enumerate(lengths):
        turned[row, :length] = table[row, :length].flip(0)
    return turned

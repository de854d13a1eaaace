"""The methods that the tables compare: three that train the exported model, and three baselines."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dnachunker.downstream.exported import Exported, batches
from dnachunker.downstream.tasks.labelled import Labelled
from dnachunker.foundations.failures import BadInput

from .classifier import OnStep, build, fit, merged, predict
from .config import Method, TrainingConfig
from .linear import Features, Linear, fit_linear, kmer_frequencies
from .ranks import Ranks

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
DESCRIPTIONS: dict[Method, str] = {
    "full": "pretrained, all weights fine-tuned",
    "lora": "pretrained, LoRA",
    "probe": "pretrained and frozen, linear probe",
    "kmer": "k-mer frequencies, logistic regression",
    "random-full": "random weights, all trained",
    "random-probe": "random weights and frozen, linear probe",
}


@dataclass(frozen=True)
class Trained:
    """A trained classifier.

    Attributes:
        predict: sequences -> class probabilities (n, classes).
        validation: score on the validation part.
        details: other facts of its training, for result.json.
        network: the classifier as a module; None for k-mer frequencies.
    """

    predict: Callable[[Sequence[str]], NDArray[np.float64]]
    validation: float
    details: dict[str, Any]
    network: nn.Module | None


def train_method(
    exported: Exported,
    method: Method,
    train: Labelled,
    validation: Labelled,
    config: TrainingConfig,
    metric: str,
    *,
    ranks: Ranks | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Train one method on `train`; `validation` decides when training stops, or chooses the penalty.

    Raises:
        BadInput: fewer than two classes, a class without a training sequence, or nothing to validate on.
    """
    ranks = ranks or Ranks()
    counts = np.bincount(train.labels, minlength=len(train.classes))
    if len(train.classes) < 2 or not counts.all():
        found = ", ".join(f"{name} ({count})" for name, count in zip(train.classes, counts, strict=True))
        raise BadInput(f"training data: two or more classes are needed, each with a sequence; there are {found}")
    if not len(validation):
        raise BadInput("training data: no class has a second sequence to validate on; add sequences, or a dev file")
    if method == "kmer":
        return _train_kmer(train, validation, config, metric)
    random_weights = method.startswith("random-")
    if method.endswith("probe"):
        return _train_probe(exported, train, validation, config, metric, random_weights)
    network = build(exported, len(train.classes), config, lora=method == "lora", random_weights=random_weights)
    total = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    fitted = fit(exported, network, train, validation, config, metric, ranks=ranks, on_step=on_step)
    details: dict[str, Any] = {
        "epoch": fitted.epoch,
        "steps": fitted.steps,
        "trained_parameters": total,
        "history": [{"epoch": epoch, "loss": loss, "validation": reached} for epoch, loss, reached in fitted.history],
    }
    if fitted.diverged:
        details["diverged"] = True
    plain = merged(fitted.network)
    return Trained(
        lambda sequences: predict(exported, plain, sequences, config, ranks=ranks), fitted.validation, details, plain
    )


def save_network(exported: Exported, network: nn.Module, classes: tuple[str, ...], folder: Path) -> None:
    """Write a folder that AutoModelForSequenceClassification loads with trust_remote_code=True."""
    config: Any = network.config
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    network.save_pretrained(folder)  # type: ignore[operator]
    for name in _TOKENIZER:
        shutil.copy(exported.folder / name, folder / name)


def _train_kmer(train: Labelled, validation: Labelled, config: TrainingConfig, metric: str) -> Trained:
    def features(sequences: Sequence[str]) -> Features:
        return kmer_frequencies(tuple(sequences), config.kmer)

    found = fit_linear(
        (features(train.sequences), train.labels), (features(validation.sequences), validation.labels),
        len(train.classes), metric, class_weights=config.class_weights,
    )  # fmt: skip
    return Trained(
        lambda sequences: found.predict(features(sequences)),
        found.validation, {"inverse_penalty": found.inverse_penalty, "k": config.kmer}, None,
    )  # fmt: skip


def _train_probe(
    exported: Exported, train: Labelled, validation: Labelled, config: TrainingConfig, metric: str, random_weights: bool
) -> Trained:
    classes = len(train.classes)
    network = exported.network("classifier", classes=classes, random_weights=random_weights, seed=config.seed)
    head: Any = network.classifier

    def features(sequences: Sequence[str]) -> Features:
        network.classifier = nn.Identity()  # the output is then the mean over the bases, padding excluded
        try:
            return _embed(exported, network, sequences, config)
        finally:
            network.classifier = head

    found = fit_linear(
        (features(train.sequences), train.labels), (features(validation.sequences), validation.labels),
        classes, metric, class_weights=config.class_weights,
    )  # fmt: skip
    _set_head(head, found)
    return Trained(
        lambda sequences: found.predict(features(sequences)),
        found.validation, {"inverse_penalty": found.inverse_penalty}, network,
    )  # fmt: skip


def _embed(exported: Exported, network: nn.Module, sequences: Sequence[str], config: TrainingConfig) -> Features:
    found = []
    with torch.no_grad():
        for part in batches(len(sequences), config.predict_batch):
            encoded = [exported.encode(sequence) for sequence in sequences[part]]
            strands = [encoded] + ([[exported.reverse_complement(ids) for ids in encoded]] if config.rc_average else [])
            tables = []
            for strand in strands:
                ids, mask = exported.batch(strand)
                tables.append(network(input_ids=ids, attention_mask=mask).logits)
            found.append(torch.stack(tables).mean(0).cpu().numpy())
    return np.concatenate(found)


def _set_head(head: nn.Linear, found: Linear) -> None:
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(found.weight))
        head.bias.copy_(torch.from_numpy(found.bias))

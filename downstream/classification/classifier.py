"""Train a sequence classifier by gradient descent, all weights or LoRA's only; its validation score stops training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dnachunker.downstream.exported import Exported, batches
from dnachunker.downstream.tasks.labelled import Labelled
from dnachunker.downstream.tasks.metrics import score

from .config import TrainingConfig
from .ranks import Ranks

# LoRA adapts the large projections of mixers and trunk. Routers and the small projections of the scan stay frozen.
_LORA_TARGETS = ("in_proj", "out_proj", "qkv", "attention_out", "mlp_in", "mlp_out")

# Called after each step with (step, steps, loss).
OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Fitted:
    """A trained network, and the record of its training.

    Attributes:
        validation: the best validation score, at `epoch` (counted from 1).
        history: (epoch, mean training loss, validation score) of each whole epoch.
        diverged: whether a loss, a gradient or a prediction was not finite. If that was in the first epoch, the network
            has its weights from before training.
    """

    network: nn.Module
    validation: float
    epoch: int
    steps: int
    history: tuple[tuple[int, float, float], ...]
    diverged: bool


def build(exported: Exported, classes: int, config: TrainingConfig, *, lora: bool, random_weights: bool) -> nn.Module:
    """An untrained classifier: mean over the bases, padding excluded, then a linear head."""
    network = exported.network("classifier", classes=classes, random_weights=random_weights, seed=config.seed)
    if not lora:
        return network
    from peft import LoraConfig, get_peft_model

    names = [name.rpartition(".")[2] for name, _ in network.named_modules()]
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=[target for target in _LORA_TARGETS if target in names],
        modules_to_save=["classifier"],
    )
    return get_peft_model(network, settings)  # type: ignore[arg-type]


def merged(network: nn.Module) -> nn.Module:
    """The plain classifier, with LoRA's updates added to the weights they adapt."""
    wrapped: Any = network
    return wrapped.merge_and_unload() if hasattr(network, "merge_and_unload") else network


def fit(
    exported: Exported,
    network: nn.Module,
    train: Labelled,
    validation: Labelled,
    config: TrainingConfig,
    metric: str,
    *,
    ranks: Ranks,
    on_step: OnStep | None = None,
) -> Fitted:
    """Train until the validation score stops improving or training diverges, then restore the best epoch's weights.

    The order, the strands and the weights are a pure function of `config.seed` on the same machine. With several
    ranks, each rank takes its share of every batch.
    """
    encoded = [exported.encode(sequence) for sequence in train.sequences]
    weights = _class_weights(train) if config.class_weights else torch.ones(len(train.classes))
    weights = weights.to(exported.device)
    most_steps = config.epochs * -(-len(train) // config.batch_size)
    steps = min(most_steps, config.max_steps or most_steps)
    optimizer = torch.optim.AdamW(parameter_groups(network, config.weight_decay), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, steps, config.warmup)
    )
    # score (the lowest there is), epoch, and weights to restore if no epoch ends
    best = (-1.0, 0, _copied(network))
    history: list[tuple[int, float, float]] = []
    done = 0
    diverged = False
    for epoch in range(1, config.epochs + 1):
        rng = np.random.default_rng([config.seed, epoch])
        order, flip = rng.permutation(len(train)), rng.random(len(train)) < 0.5
        losses = []
        network.train()
        for part in batches(len(train), config.batch_size):
            if done == steps:
                break
            rows = order[part]
            losses.append(_step(exported, network, encoded, train.labels, rows, flip, weights, config, ranks))
            norm = float(nn.utils.clip_grad_norm_(network.parameters(), config.clip_grad_norm))
            # loss and norm are the same on every rank, so all ranks stop at the same step
            diverged = not np.isfinite([losses[-1], norm]).all()
            if diverged:
                break
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            if on_step is not None:
                on_step(done, steps, losses[-1])
        if diverged:
            break
        probabilities = predict(exported, network, validation.sequences, config, ranks=ranks)
        diverged = not np.isfinite(probabilities).all()
        if diverged:  # `score` would read NaN as a prediction of the first class
            break
        reached = score(validation.labels, probabilities, metric)
        history.append((epoch, float(np.mean(losses)), reached))
        if reached > best[0]:
            best = (reached, epoch, _copied(network))
        if done == steps or epoch - best[1] >= config.patience:
            break
    network.load_state_dict(best[2], strict=False)
    return Fitted(network.eval(), best[0], best[1], done, tuple(history), diverged)


def _step(
    exported: Exported,
    network: nn.Module,
    encoded: Sequence[NDArray[np.int64]],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    flip: NDArray[np.bool_],
    weights: Tensor,
    config: TrainingConfig,
    ranks: Ranks,
) -> float:
    """Set the parameters' gradients to those of one batch, summed over the ranks; return the loss of the batch."""
    total = weights[torch.from_numpy(labels[rows]).to(weights.device)].sum()
    loss = torch.zeros((), device=exported.device)
    mine = rows[ranks.rank :: ranks.world]
    if len(mine):
        strand = [exported.reverse_complement if flip[row] and config.rc_augment else _as_it_is for row in mine]
        ids, mask = exported.batch([turn(encoded[row]) for turn, row in zip(strand, mine, strict=True)])
        target = torch.from_numpy(labels[mine]).to(exported.device)
        logits = network(input_ids=ids, attention_mask=mask).logits
        loss = F.cross_entropy(logits, target, weight=weights, reduction="sum") / total
        loss.backward()
    ranks.add_gradients(network)
    return ranks.add(float(loss.detach()))


def predict(
    exported: Exported,
    network: nn.Module,
    sequences: Sequence[str],
    config: TrainingConfig,
    *,
    ranks: Ranks,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """Class probabilities (n, classes); with `config.rc_average`, the logits of both strands are averaged."""
    network.eval()
    found = []
    mine = range(ranks.rank, len(sequences), ranks.world)
    with torch.no_grad():
        for part in batches(len(mine), config.predict_batch):
            encoded = [exported.encode(sequences[row]) for row in mine[part]]
            strands = [encoded] + ([[exported.reverse_complement(ids) for ids in encoded]] if config.rc_average else [])
            tables = []
            for strand in strands:
                ids, mask = exported.batch(strand)
                tables.append(network(input_ids=ids, attention_mask=mask).logits.double())
            found.append(torch.stack(tables).mean(0).softmax(-1).cpu().numpy())
            if on_batch is not None:
                on_batch(len(encoded))
    return ranks.interleave(np.concatenate(found) if found else np.zeros((0, 0)), len(sequences))


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: trained parameters with weight decay, and norms, biases and embeddings without."""
    plain: Any = network
    if hasattr(network, "get_base_model"):
        plain = plain.get_base_model()
    spared = plain.no_weight_decay_parameter_names()
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    decayed = [p for name, p in trained if name not in spared and not name.endswith("bias")]
    rest = [p for name, p in trained if name in spared or name.endswith("bias")]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def learning_rate_share(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at a step from 0: it rises for a share `warmup` of the steps, then falls to 0."""
    rising = warmup * steps
    return (step + 1) / (rising + 1) if step < rising else max(0.0, (steps - step) / max(1.0, steps - rising))


def _class_weights(data: Labelled) -> Tensor:
    counts = np.bincount(data.labels, minlength=len(data.classes))
    return torch.from_numpy(len(data) / (len(data.classes) * np.maximum(counts, 1))).float()


def _as_it_is(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    return ids

"""How a classifier is trained; its preset is configs/downstream/finetune.yaml."""

from typing import Literal

from pydantic import Field

from dnachunker.foundations.typed_config import Config

Method = Literal["full", "lora", "probe", "kmer", "random-full", "random-probe"]
METHODS: tuple[Method, ...] = ("full", "lora", "probe", "kmer", "random-full", "random-probe")


class TrainingConfig(Config):
    """Every choice that a score depends on, apart from model, task and method."""

    seed: int = Field(
        default=0, ge=0, description="random seed of new weights, order, strands and the validation split"
    )
    learning_rate: float = Field(
        default=3e-4, gt=0, description="learning rate of AdamW after warm-up; full, lora and random-full only"
    )
    batch_size: int = Field(default=32, ge=1, description="sequences per step; full, lora and random-full only")
    epochs: int = Field(
        default=10, ge=1, description="maximum passes over the training data; full, lora and random-full only"
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="maximum number of steps; null: only `epochs` is a limit"
    )
    patience: int = Field(default=3, ge=1, description="epochs without a better validation score before training stops")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(
        default=0.01, ge=0, description="weight decay of AdamW; norms, biases and embeddings have none"
    )
    clip_grad_norm: float = Field(
        default=1.0, gt=0, description="largest 2-norm of a step's gradient; a longer one is scaled down"
    )
    validation_share: float = Field(
        default=0.1, gt=0, lt=1, description="share of the training split to validate on, where a task has no dev file"
    )
    class_weights: bool = Field(default=False, description="weight each class by the inverse of its frequency")
    rc_augment: bool = Field(
        default=True, description="train on a random strand of each sequence; full, lora and random-full only"
    )
    rc_average: bool = Field(default=True, description="predict from the average over both strands")
    lora_rank: int = Field(default=8, ge=1, description="rank of LoRA's updates")
    lora_alpha: int = Field(default=16, ge=1, description="LoRA's updates are scaled by lora_alpha / lora_rank")
    kmer: int = Field(default=6, ge=1, le=8, description="k of the k-mer baseline, in bases")
    predict_batch: int = Field(default=64, ge=1, description="sequences at a time in prediction")
    bootstrap: int = Field(default=1000, ge=1, description="resamples of the test set for confidence intervals")

"""How a classifier is trained; the presets are configs/downstream/."""

from typing import Literal

from pydantic import Field

from dnachunker.foundations.typed_config import Config

Method = Literal["full", "lora", "probe", "kmer", "random-full", "random-probe"]
METHODS: tuple[Method, ...] = ("full", "lora", "probe", "kmer", "random-full", "random-probe")


class TrainingConfig(Config):
    """Every choice a score depends on, apart from model, task and method."""

    seed: int = Field(default=0, ge=0, description="of heads, order, augmentation and the validation split")
    learning_rate: float = Field(default=3e-4, gt=0, description="AdamW's, after warm-up; full and lora")
    batch_size: int = Field(default=32, ge=1, description="sequences a step; full and lora")
    epochs: int = Field(default=10, ge=1, description="passes over the training data, at most; full and lora")
    max_steps: int | None = Field(default=None, ge=1, description="steps at most; null for no other limit than epochs")
    patience: int = Field(default=3, ge=1, description="validations without a better score before training stops")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's; not on norms, biases and embeddings")
    clip_grad_norm: float = Field(default=1.0, gt=0, description="largest 2-norm of a step's gradient")
    validation_share: float = Field(default=0.1, gt=0, lt=1, description="of training, where there is no such split")
    class_weights: bool = Field(default=False, description="weight classes by the inverse of their frequency")
    rc_augment: bool = Field(default=True, description="train on a random strand of each sequence; full and lora")
    rc_average: bool = Field(default=True, description="predict from both strands and average")
    lora_rank: int = Field(default=8, ge=1, description="rank of LoRA's updates")
    lora_alpha: int = Field(default=16, ge=1, description="scale of LoRA's updates, over their rank")
    kmer: int = Field(default=6, ge=1, le=8, description="k of the k-mer baseline")
    predict_batch: int = Field(default=64, ge=1, description="sequences at a time where nothing is trained")
    bootstrap: int = Field(default=1000, ge=1, description="resamples of the test set for intervals")

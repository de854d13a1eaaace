"""What a per-base classifier learns and how; its preset is configs/downstream/annotate.yaml."""

from typing import Literal

from pydantic import Field

from dnachunker.foundations.typed_config import Config

Method = Literal["full", "probe", "random-full", "cnn", "markov", "kmer"]


class LabelClass(Config):
    """One level of the priority list: a class, and the kinds of features that it is made of."""

    name: str | None = Field(description="class; null: bases of these kinds are neither trained on nor scored")
    kinds: tuple[str, ...] = Field(min_length=1, description="kinds of features, as column 3 of GFF3 and GTF has them")


class AnnotateConfig(Config):
    """Every choice that a score depends on, apart from model, genome, annotation, regions and method."""

    classes: tuple[LabelClass, ...] = Field(
        min_length=1, description="classes by priority: a base of several features has the first class of this list"
    )
    background: str = Field(default="intergenic", description="class of the bases without a feature of `classes`")
    ignore: tuple[str, ...] = Field(
        default=(), description="classes of the list whose bases are neither trained on nor scored"
    )
    strands: bool = Field(
        default=False, description="a class for each strand, such as CDS+ and CDS-; false: strands are not told apart"
    )
    log_values: bool = Field(default=False, description="learn log(1 + number) of a --track, as for counts of reads")
    seeds: int = Field(default=1, ge=1, description="trainings of each method, with the seeds 0, 1, ...")
    window: int | None = Field(
        default=None, ge=2, description="bases that a network reads at a time; null: as in pretraining"
    )
    flank: int | None = Field(
        default=None, ge=0, description="bases at each end of a window that are context only; null: window / 8"
    )
    steps: int = Field(default=1000, ge=1, description="maximum number of training steps")
    batch_size: int = Field(default=8, ge=1, description="windows per step")
    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of AdamW: full, random-full and cnn")
    probe_learning_rate: float = Field(default=1e-2, gt=0, description="learning rate of AdamW for the head of probe")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(
        default=0.01, ge=0, description="weight decay of AdamW; norms, biases and embeddings have none"
    )
    clip_grad_norm: float = Field(
        default=1.0, gt=0, description="largest 2-norm of a step's gradient; a longer one is scaled down"
    )
    class_weight_exponent: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="classes weigh frequency^-exponent in the loss; 0: all bases weigh the same",
    )
    validate_every: int = Field(default=200, ge=1, description="steps between scores of the validation regions")
    patience: int = Field(default=3, ge=1, description="validations without a better score before training stops")
    rc_augment: bool = Field(default=True, description="train on a random strand of each window")
    rc_average: bool = Field(default=True, description="predict from the average over both strands")
    cnn_layers: int = Field(default=8, ge=1, le=12, description="layers of cnn; layer n has a dilation of 2^n bases")
    cnn_kernel: int = Field(default=5, ge=3, description="bases that a filter of cnn covers; an odd number")
    markov_order: int = Field(default=5, ge=0, le=8, description="bases that a base of markov depends on")
    bootstrap: int = Field(default=1000, ge=1, description="resamples of the test regions for confidence intervals")

"""What a pretraining run is made of. Torch-free, so that a typo is refused before any process starts."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from dnachunker.foundations.typed_config import Config

Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class MixingSettings(Config):
    """How often an epoch sees each genome."""

    by: Literal["source", "species", "clade"] = Field("source", description="what `temperature` and `weights` speak of")
    temperature: Annotated[float, Field(ge=1)] = Field(
        1.0, description="shares go with bases ** (1 / temperature): 1 is natural, a large one makes all equal"
    )
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="relative weights by name, 1 where not named; default: the weights in the corpus index",
    )


class StageSettings(Config):
    """A part of the run with windows of its own length."""

    from_step: Annotated[int, Field(ge=0)]
    seq_len: Positive
    global_batch: Positive


class DataSettings(Config):
    """Which windows are seen, in which order. Part of the run's identity: a resume refuses a change."""

    corpus: str = Field(description="corpus folder or URL made by `dnachunker shard` (or --corpus)")
    train_split: str = "train"
    seq_len: Positive = Field(1024, description="window length in bases")
    global_batch: Positive = Field(8, description="windows in one optimizer step, over all ranks")
    curriculum: tuple[StageSettings, ...] = Field(
        (), description="later stages with another window length, each {from_step, seq_len, global_batch}"
    )
    streams: Positive = Field(64, description="interleaved streams of the order; the world size must divide it")
    shuffle_blocks: Positive = Field(4, description="consecutive blocks whose windows are shuffled together")
    reverse_complement: bool = Field(True, description="read half of the windows from the other strand")
    mixing: MixingSettings = MixingSettings()

    @model_validator(mode="after")
    def _stages_follow(self) -> Self:
        steps = [stage.from_step for stage in self.stages]
        if steps != sorted(set(steps)):
            raise ValueError(f"curriculum: from_step must grow from stage to stage, from 1 on, and is {steps[1:]}")
        return self

    @property
    def stages(self) -> tuple[StageSettings, ...]:
        """All stages, the first included."""
        return StageSettings(from_step=0, seq_len=self.seq_len, global_batch=self.global_batch), *self.curriculum


class LoaderSettings(Config):
    """How windows are read. Changes nothing about which; may differ between resumes."""

    workers: Annotated[int, Field(ge=0)] = Field(1, description="reader threads of a rank; 0 reads when a step asks")
    on_bad_block: Literal["fail", "skip"] = Field("fail", description="skip reads a damaged block as N, with no loss")
    max_bad_blocks: Annotated[int, Field(ge=0)] = Field(16, description="faults a rank skips before it stops")
    cache: str | None = Field(None, description="folder that keeps blocks of a remote corpus; none by default")
    cache_gib: Annotated[float, Field(gt=0)] = Field(50.0, description="most the cache holds, for all ranks together")


class ModelSettings(Config):
    """The network: the fields of `DNAChunkerConfig` that pretraining may choose; without any, the 172M model."""

    causal: bool = Field(False, description="read forward only and predict the next base, so that it can generate")
    width: Positive = 640
    encoder_layers: tuple[Positive, Positive] = (2, 2)
    decoder_layers: tuple[Positive, Positive] = (2, 2)
    trunk_layers: Positive = 30
    num_heads: Positive = 10
    mlp_ratio: Positive = 4
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    mixer: Literal["bimamba", "transformer", "conv"] = Field("bimamba", description="layers of encoders and decoders")
    local_window: Positive = Field(64, description="positions to either side that mixer `transformer` sees")
    state_size: Positive = 16
    conv_width: Positive = 4
    expand: Positive = 2
    dt_rank: Positive | None = Field(None, description="default: width / 16, rounded up")
    target_ratios: tuple[OpenShare, OpenShare] = Field((0.33, 0.33), description="alpha of each stage")
    ratio_loss_weight: Annotated[float, Field(ge=0)] = 0.03
    ratio_boundaries: Literal["natural", "forced"] = "natural"
    chunk_pooling: Literal["first", "mean"] = "first"
    mask_protection: bool = True
    residual_gating: bool = True
    strand_symmetry: bool = Field(
        False,
        description="read both strands at once: exactly equivariant to the reverse complement, at twice the cost",
    )

    @model_validator(mode="after")
    def _causal_looks_back_only(self) -> Self:
        for name, needed in (("mixer", "bimamba"), ("chunk_pooling", "first"), ("strand_symmetry", False)):
            if self.causal and getattr(self, name) != needed:
                raise ValueError(f"causal needs {name}={needed}: {getattr(self, name)} looks ahead")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} does not divide into num_heads={self.num_heads} heads of even width")
        return self


_SEGMENTATION_DEFAULTS: dict[str, dict[str, int]] = {
    "kmer": {"k": 6},
    "bpe": {"vocabulary": 4096, "sample_bases": 10_000_000},
}


class SegmentationSettings(Config):
    """Where chunks start: found by the routers, or as a tokenizer cuts, with all else the same.

    A segmentation that is not learned has no ratio loss. See docs/segmentations.md.
    """

    kind: Literal["learned", "base", "kmer", "bpe"] = Field(
        "learned", description="routers; or every base, every k-th base, byte pairs learned from the training split"
    )
    k: Positive | None = Field(None, description="bases of a k-mer (kmer only); default 6")
    vocabulary: Annotated[int, Field(ge=5)] | None = Field(
        None, description="tokens, the four bases included (bpe only); default 4096"
    )
    sample_bases: Positive | None = Field(
        None, description="training bases the pairs are counted on, at most (bpe only); default 10 million"
    )

    @property
    def chunks_per_base(self) -> float | None:
        """Of unmasked sequence, for plans: byte pairs to about a tenth; None where routers decide."""
        if self.vocabulary is not None:
            return 1.12 / math.log(self.vocabulary, 4)  # 0.19 at 4,096 tokens and 0.25 at 512, on a bacterium
        return {"learned": None, "base": 1.0}.get(self.kind, 1 / (self.k or 1))

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        defaults = _SEGMENTATION_DEFAULTS.get(str(values.get("kind")), {})
        return {**values, **{key: value for key, value in defaults.items() if values.get(key) is None}}

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Self:
        for kind, settings in _SEGMENTATION_DEFAULTS.items():
            for key in settings:
                if kind != self.kind and getattr(self, key) is not None:
                    raise ValueError(f"{key} belongs to kind {kind}; kind {self.kind} has no such setting")
        return self


class MaskingSettings(Config):
    """BERT corruption; shares of the A/C/G/T positions, then of the selected ones.

    A causal model predicts every base: of these settings only `repeat_weight` speaks to it.
    """

    select: Share = 0.15
    mask: Share = 0.8
    random: Share = 0.1
    repeat_weight: Share = Field(0.1, description="loss weight of soft-masked bases")
    span: Annotated[int, Field(ge=1, le=256)] = Field(
        1, description="bases selected together; the same share in longer runs forces fewer chunks"
    )

    @property
    def forced_share(self) -> float:
        """Share of positions that are masked or follow a mask: mask protection makes each start a chunk."""
        masked = self.select * self.mask
        return masked + masked * (1 - masked) / self.span

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.mask + self.random > 1:
            raise ValueError("mask + random must not exceed 1")
        return self


class OptimizerSettings(Config):
    """AdamW; no decay on norms, biases, A_log, D and embeddings."""

    lr: Annotated[float, Field(gt=0)] = 3e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class ScheduleSettings(Config):
    """Learning rate over the steps, as shares of the run: linear warm-up, stable, decay to `final_share` x lr."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup: Share = 0.1
    decay: Share = Field(0.2, description="share of the steps spent decaying (wsd only)")
    decay_shape: Literal["linear", "1-sqrt"] = "1-sqrt"
    final_share: Share = 0.0

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError("warmup + decay must not exceed 1")
        return self


class EngineSettings(Config):
    """How a step is computed. May change between resumes where the checkpoint allows it."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    offload_optimizer: bool = Field(False, description="keep optimizer states in host memory (ZeRO 1-3)")
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch: Positive | None = Field(None, description="windows in one forward pass of one rank; default: all")
    activation_checkpointing: bool = False
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="further DeepSpeed keys, such as {zero_optimization: {overlap_comm: true}}"
    )
    scan_backend: Literal["auto", "triton", "reference", "cpu", "mamba_ssm"] = Field(
        "auto", description="see model/kernels.py"
    )
    attention_backend: Literal["auto", "flash_attn", "torch_varlen", "sdpa"] = "auto"
    foresee_chunks: bool = Field(
        False,
        description="make room for as many chunks as recent steps needed, instead of waiting to count them; "
        "a step that needs more is skipped, which depends on micro_batch and the number of ranks",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "off", description="torch.compile of the trunk's MLPs: auto is on GPUs alone; without a compiler, off"
    )

    @model_validator(mode="after")
    def _offload_needs_zero(self) -> Self:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self

    @model_validator(mode="after")
    def _weights_are_there_to_compile(self) -> Self:
        if self.compile != "off" and self.zero_stage == 3:
            raise ValueError("compile needs zero_stage 0, 1 or 2: stage 3 gathers weights module by module")
        return self


class EvaluationSettings(Config):
    """Held-out evaluation, beside Markov baselines counted on the training split."""

    split: str = "valid"
    every: Positive = Field(50, description="steps between evaluations; the last step is always evaluated")
    windows: Positive = Field(64, description="held-out windows, spread evenly over the split")
    diagnostics_every: Positive = Field(1, description="evaluations between two rounds of diagnostics")
    average_strands: bool = Field(
        False, description="score the mean of a window's logits and those of its reverse complement, read separately"
    )
    baseline_bases: Positive = Field(50_000_000, description="training bases the Markov tables are counted on, at most")


class CheckpointSettings(Config):
    """Complete or absent: a checkpoint appears by rename, with a sha256 of every file."""

    every: Positive = Field(100, description="steps between checkpoints; the last step is always saved")
    keep: Positive = Field(2, description="newest checkpoints kept")
    keep_every: Positive | None = Field(None, description="also keep for good every checkpoint of such a multiple")
    copy_to: str | None = Field(None, description="folder or fsspec URL each checkpoint is copied to in the background")
    rewarm: Annotated[int, Field(ge=0)] = Field(0, description="steps over which a resumed run's lr rises again")


class GuardSettings(Config):
    """What training does when something is wrong; see docs/operations.md for what each warning means."""

    nonfinite_limit: Positive = Field(3, description="stop (exit 4) after so many steps in a row with NaN or infinity")
    spike: Literal["log", "dump", "roll_back"] = Field(
        "log", description="on a loss spike: log it, also dump its windows, or also go back a checkpoint and skip them"
    )
    spike_score: Annotated[float, Field(gt=0)] = Field(8.0, description="robust z-score of a loss that is a spike")
    spike_window: Annotated[int, Field(ge=8)] = Field(128, description="steps the score looks back on")
    spike_limit: Positive = Field(5, description="roll-backs before training stops (exit 4)")
    hang_seconds: Annotated[float, Field(gt=0)] = Field(1200.0, description="end the job when a rank is stuck so long")


class TrackingSettings(Config):
    """MLflow. The run folder's events.jsonl is complete with or without it."""

    enabled: bool = True
    uri: str | None = Field(None, description="tracking server; default: MLFLOW_TRACKING_URI, else sqlite in the run")
    experiment: str = "dnachunker"
    run_name: str | None = Field(None, description="default: the run folder's name")
    parent_run: str | None = Field(None, description="id of the MLflow run to nest this one under, as in a sweep")

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri and "@" in uri.partition("://")[2].partition("/")[0]:
            # the config is stored with the run; the message must not repeat it either
            raise PydanticCustomError(
                "password", "holds a password; set MLFLOW_TRACKING_USERNAME and _PASSWORD instead"
            )
        return uri


class LaunchSettings(Config):
    """Processes a plain `dnachunker pretrain` starts on this machine."""

    processes: Positive | None = Field(None, description="default: every GPU, or 2 without one")


class PretrainConfig(Config):
    """One pretraining run."""

    run: str = Field(description="run folder (or --run): checkpoints, events, tracking; continued when it exists")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    steps: Positive = Field(description="optimizer steps in the whole run")
    log_every: Positive = 1
    model: ModelSettings = ModelSettings()
    segmentation: SegmentationSettings = SegmentationSettings()
    data: DataSettings = Field(description="at least data.corpus, or --corpus")
    loader: LoaderSettings = LoaderSettings()
    masking: MaskingSettings = MaskingSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    engine: EngineSettings = EngineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    guards: GuardSettings = GuardSettings()
    tracking: TrackingSettings = TrackingSettings()
    launch: LaunchSettings = LaunchSettings()

    @model_validator(mode="after")
    def _both_strands_are_cut_alike(self) -> Self:
        if self.model.strand_symmetry and self.segmentation.kind != "learned":
            raise ValueError(
                f"segmentation.kind={self.segmentation.kind} with model.strand_symmetry: "
                "it cuts each strand its own way"
            )
        return self

    @model_validator(mode="after")
    def _causal_is_not_told_the_future(self) -> Self:
        if self.model.causal and self.segmentation.kind != "learned":
            raise ValueError(
                f"segmentation.kind={self.segmentation.kind} with model.causal: a tokenizer may look ahead"
            )
        if self.model.causal and self.evaluation.average_strands:
            raise ValueError("evaluation.average_strands with model.causal: the other strand begins with the future")
        return self

    def accumulation(self, world_size: int) -> int:
        """Forward passes of one rank in one optimizer step.

        Raises:
            ValueError: the world size or the micro-batch does not divide what it must.
        """
        for name, value in (("data.global_batch", self.data.global_batch), ("data.streams", self.data.streams)):
            if value % world_size:
                raise ValueError(f"{world_size} ranks do not divide {name}={value}; change either")
        per_rank = self.data.global_batch // world_size
        micro_batch = self.engine.micro_batch or per_rank
        if per_rank % micro_batch:
            raise ValueError(
                f"engine.micro_batch={micro_batch} does not divide the {per_rank} windows each of {world_size} ranks "
                f"takes of data.global_batch={self.data.global_batch}; choose a divisor of {per_rank}"
            )
        passes = per_rank // micro_batch
        for stage in self.data.curriculum:
            if stage.global_batch % (world_size * passes):
                raise ValueError(
                    f"data.curriculum: global_batch={stage.global_batch} from step {stage.from_step} on does not "
                    f"divide into {world_size} ranks x {passes} forward passes of a step; all stages have as many"
                )
        return passes

"""What a pretraining run is made of. Torch-free, so that a typo is refused before any process starts."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from dnachunker.foundations.typed_config import Config
from dnachunker.model.network_fields import LAYERS, NetworkFields, check_network, require_at_least, split_refusal

from .settings.evaluation import EvaluationSettings, Positive
from .settings.learning import InitSettings, OptimizerSettings, ScheduleSettings, Share

OpenShare = Annotated[float, Field(gt=0, lt=1)]


class MixingSettings(Config):
    """How often an epoch sees each genome."""

    by: Literal["source", "species", "clade"] = Field("source", description="what `temperature` and `weights` apply to")
    temperature: Annotated[float, Field(ge=1)] = Field(
        1.0, description="shares are proportional to bases ** (1 / temperature): 1 is natural, large makes all equal"
    )
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="relative weights by name, 1 where not named; default: the weights in the corpus index",
    )


class PhaseSettings(Config):
    """A part of the run with windows of its own length."""

    from_step: Annotated[int, Field(ge=0, description="first optimizer step of the phase")]
    seq_len: Annotated[Positive, Field(description="window length in bases")]
    global_batch: Annotated[Positive, Field(description="windows in one optimizer step, over all ranks")]


class DataSettings(Config):
    """Which windows are seen, in which order. Part of the run's identity: a resume refuses a change."""

    corpus: str = Field(description="corpus folder or URL made by `dnachunker shard` (or --corpus)")
    train_split: str = Field("train", description="split of the corpus that is trained on")
    seq_len: Positive = Field(1024, description="window length in bases")
    global_batch: Positive = Field(8, description="windows in one optimizer step, over all ranks")
    curriculum: tuple[PhaseSettings, ...] = Field(
        (), description="later phases with another window length, each {from_step, seq_len, global_batch}"
    )
    streams: Positive = Field(
        64, description="streams that samples are taken from in turn; the world size must divide it"
    )
    shuffle_blocks: Positive = Field(4, description="consecutive blocks whose windows are shuffled together")
    reverse_complement: bool = Field(True, description="read half of the windows from the other strand")
    mixing: MixingSettings = MixingSettings()

    @model_validator(mode="after")
    def _phases_follow(self) -> Self:
        steps = [phase.from_step for phase in self.phases]
        if steps != sorted(set(steps)):
            raise ValueError(f"curriculum: from_step must grow from phase to phase, from 1 or more; it is {steps[1:]}")
        return self

    @property
    def phases(self) -> tuple[PhaseSettings, ...]:
        """All phases, the first included."""
        return PhaseSettings(from_step=0, seq_len=self.seq_len, global_batch=self.global_batch), *self.curriculum


class LoaderSettings(Config):
    """How windows are read, not which windows; may differ between resumes."""

    workers: Annotated[int, Field(ge=0)] = Field(1, description="reader threads of a rank; 0: no reading ahead")
    on_bad_block: Literal["fail", "skip"] = Field("fail", description="skip: read a damaged block as N, with no loss")
    max_bad_blocks: Annotated[int, Field(ge=0)] = Field(16, description="faults that a rank skips before it stops")
    cache: str | None = Field(None, description="folder that keeps blocks of a remote corpus; default: none")
    cache_gib: Annotated[float, Field(gt=0)] = Field(50.0, description="most the cache holds, over all ranks")


class ModelSettings(Config, NetworkFields):
    """The network; without any key, the 172M model."""

    @model_validator(mode="after")
    def _fits_a_network(self) -> Self:
        check_network(self)
        require_at_least(1, self, LAYERS)
        return self


_TOKENIZATION_DEFAULTS: dict[str, dict[str, int]] = {
    "kmer": {"k": 6},
    "bpe": {"vocabulary": 4096, "sample_bases": 10_000_000},
}


class TokenizationSettings(Config):
    """Where chunks start: learned by the routers, or where a tokenizer cuts, with all else the same.

    With a tokenizer there is no ratio loss. See docs/tokenization.md.
    """

    kind: Literal["learned", "base", "kmer", "bpe"] = Field(
        "learned", description="chunks start where routers say, at every base, at every k-th base, or at byte pairs"
    )
    k: Positive | None = Field(None, description="bases of a k-mer (kmer only); default 6")
    vocabulary: Annotated[int, Field(ge=5)] | None = Field(
        None, description="tokens, the four bases included (bpe only); default 4096"
    )
    sample_bases: Positive | None = Field(
        None, description="most training bases that byte pairs are learned from (bpe only); default 10 million"
    )

    @property
    def chunks_per_base(self) -> float | None:
        """Expected on unmasked sequence, for plans; within about a tenth for byte pairs. None where routers decide."""
        if self.vocabulary is not None:
            return 1.12 / math.log(self.vocabulary, 4)  # 0.19 at 4,096 tokens and 0.25 at 512, on a bacterium
        return {"learned": None, "base": 1.0}.get(self.kind, 1 / (self.k or 1))

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        defaults = _TOKENIZATION_DEFAULTS.get(str(values.get("kind")), {})
        return {**values, **{key: value for key, value in defaults.items() if values.get(key) is None}}

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Self:
        for kind, settings in _TOKENIZATION_DEFAULTS.items():
            for key in settings:
                if kind != self.kind and getattr(self, key) is not None:
                    raise ValueError(f"{key} belongs to kind {kind}; kind {self.kind} has no such setting")
        return self


class MaskingSettings(Config):
    """BERT corruption; shares of the A/C/G/T positions, then of the selected ones.

    A causal model predicts every base and uses only `repeat_weight`.
    """

    select: Share = Field(0.15, description="share of the A/C/G/T positions that are to be predicted")
    mask: Share = Field(0.8, description="of these, the share that becomes [MASK]")
    random: Share = Field(0.1, description="of these, the share that becomes a random base; the rest stays")
    repeat_weight: Share = Field(0.1, description="loss weight of soft-masked bases")
    span: Annotated[int, Field(ge=1, le=256)] = Field(
        1, description="bases selected together; at the same share, longer spans force fewer chunks"
    )

    @property
    def forced_share(self) -> float:
        """Share of positions that are masked or follow a mask, where mask protection forces a boundary."""
        masked = self.select * self.mask
        return masked + masked * (1 - masked) / self.span

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.mask + self.random > 1:
            raise ValueError("mask + random must not exceed 1")
        return self


class EngineSettings(Config):
    """How a step is computed. May change between resumes where the checkpoint allows it."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="what DeepSpeed ZeRO shards: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too"
    )
    offload_optimizer: bool = Field(False, description="keep optimizer states in host memory (ZeRO 1-3)")
    context_parallel: Positive = Field(
        1, description="ranks that share each window, each with a stretch of its bases; must divide the number of ranks"
    )
    precision: Literal["fp32", "bf16-autocast", "bf16"] = Field(
        "fp32",
        description="bf16-autocast: float32 weights and gradients, matrix products in bf16; bf16: weights, activations "
        "and gradients in bf16, beside a float32 copy of the weights",
    )
    micro_batch: Positive | Literal["auto"] | None = Field(
        None, description="windows in one forward pass of one rank; auto: as many as fit into memory; default: all"
    )
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, about a third more time"
    )
    layer_block: Annotated[int, Field(ge=0)] = Field(
        65_536,
        description="positions that a BiMamba layer holds at a time where windows are longer; 0, and ZeRO 3: all",
    )
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="further DeepSpeed keys, such as {zero_optimization: {overlap_comm: true}}"
    )
    scan_backend: Literal["auto", "triton", "mamba_ssm", "cpu", "chunked", "reference"] = Field(
        "auto", description="kernels of scan, convolution and smoothing; auto: the fastest that run (docs/model.md)"
    )
    attention_backend: Literal["auto", "flash_attn", "torch_varlen", "sdpa"] = Field(
        "auto", description="attention kernels of the trunk; auto: the fastest that run (docs/model.md)"
    )
    foresee_chunks: bool = Field(
        False,
        description="choose the capacity of chunk buffers from recent steps, instead of waiting to count chunks; "
        "a step that needs more is skipped, so results depend on micro_batch and the number of ranks",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "off", description="torch.compile of the trunk's MLPs; auto: only on GPUs with a compiler"
    )

    @field_validator("micro_batch", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if value in (None, "auto") or (type(value) is int and value > 0):
            return value
        raise ValueError("must be a number of windows, at least 1, or auto")

    @model_validator(mode="after")
    def _offload_needs_zero(self) -> Self:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self

    @model_validator(mode="after")
    def _weights_are_there_to_compile(self) -> Self:
        if self.compile != "off" and self.zero_stage == 3:
            raise ValueError("compile needs zero_stage 0, 1 or 2: ZeRO stage 3 gathers weights module by module")
        return self


class CheckpointSettings(Config):
    """Which checkpoints are made and kept. A checkpoint is complete or absent, and has a sha256 of every file."""

    every: Positive = Field(100, description="steps between checkpoints; the last step is always saved")
    keep: Positive = Field(2, description="newest checkpoints kept")
    keep_every: Positive | None = Field(None, description="also keep for good the checkpoint of every so many steps")
    copy_to: str | None = Field(None, description="folder or fsspec URL each checkpoint is copied to in the background")
    resume_from: str | None = Field(
        None, description="folder or URL of copies that a run folder without a checkpoint goes on from (null: copy_to)"
    )
    asynchronous: bool = Field(
        True, description="write checkpoints from a copy in host memory, beside training; see docs/operations.md"
    )
    rewarm: Annotated[int, Field(ge=0)] = Field(0, description="steps over which a resumed run's lr rises again")


class GuardSettings(Config):
    """What training does when something is wrong; see docs/operations.md for what each warning means."""

    nonfinite_limit: Positive = Field(3, description="stop (exit 4) after so many steps in a row with NaN or infinity")
    spike: Literal["log", "dump", "roll_back"] = Field(
        "log", description="on a loss spike: log it; also dump its windows; or also go back and leave out its batch"
    )
    spike_score: Annotated[float, Field(gt=0)] = Field(8.0, description="robust z-score from which a loss is a spike")
    spike_window: Annotated[int, Field(ge=8)] = Field(128, description="recent steps that the score compares with")
    spike_limit: Positive = Field(5, description="roll-backs before training stops (exit 4)")
    hang_seconds: Annotated[float, Field(gt=0)] = Field(1200.0, description="end the job when one call takes longer")


class TrackingSettings(Config):
    """The MLflow mirror and the TensorBoard files. The event log is complete with or without them."""

    enabled: bool = Field(True, description="mirror the event log to MLflow")
    uri: str | None = Field(
        None, description="MLflow server; default: MLFLOW_TRACKING_URI, else mlflow.db beside the run folder"
    )
    experiment: str = Field("dnachunker", description="name of the MLflow experiment")
    run_name: str | None = Field(None, description="default: the run folder's name")
    tensorboard: bool = Field(False, description="also write the event log as TensorBoard files, RUN/tensorboard")
    system_seconds: Annotated[float, Field(gt=0)] = Field(30.0, description="between samples of each machine's load")
    parent_run: str | None = Field(None, description="id of the MLflow run to nest this one under, as in a sweep")

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri and "@" in uri.partition("://")[2].partition("/")[0]:
            # the config is stored with the run, and neither may the message repeat the password
            raise PydanticCustomError(
                "password", "holds a password; set MLFLOW_TRACKING_USERNAME and _PASSWORD instead"
            )
        return uri


class LaunchSettings(Config):
    """What a plain `dnachunker pretrain` starts on this machine."""

    processes: Positive | None = Field(None, description="ranks; default: one for each GPU, or 2 without a GPU")


class PretrainConfig(Config):
    """One pretraining run."""

    run: str = Field(description="run folder (or --run): checkpoints, event log, MLflow; an existing run continues")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="of weights, sample order and masks")
    steps: Positive = Field(description="optimizer steps in the whole run")
    log_every: Positive = Field(1, description="steps between two records of step metrics")
    model: ModelSettings = ModelSettings()
    tokenization: TokenizationSettings = TokenizationSettings()
    data: DataSettings = Field(description="which windows are seen, in which order; at least data.corpus, or --corpus")
    loader: LoaderSettings = LoaderSettings()
    masking: MaskingSettings = MaskingSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    init: InitSettings = InitSettings()
    engine: EngineSettings = EngineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    guards: GuardSettings = GuardSettings()
    tracking: TrackingSettings = TrackingSettings()
    launch: LaunchSettings = LaunchSettings()

    @model_validator(mode="after")
    def _every_level_has_a_rate(self) -> Self:
        factors, levels = self.optimizer.stage_lr, len(self.model.encoder_layers) + 1
        if isinstance(factors, tuple) and len(factors) != levels:
            raise ValueError(
                f"optimizer.stage_lr has {len(factors)} factors; it needs {levels}: one for each stage of the model "
                "from the outermost in, then one for the trunk"
            )
        return self

    @model_validator(mode="after")
    def _both_strands_are_cut_alike(self) -> Self:
        if self.model.strand_symmetry and self.tokenization.kind != "learned":
            raise ValueError(
                f"tokenization.kind={self.tokenization.kind} with model.strand_symmetry: "
                "a tokenizer cuts each strand its own way"
            )
        return self

    @model_validator(mode="after")
    def _windows_can_be_split(self) -> Self:
        shared = self.engine.context_parallel
        if shared > 1 and (reason := self.split_refusal()):
            raise ValueError(f"engine.context_parallel={shared}: {reason}")
        return self

    @model_validator(mode="after")
    def _causal_is_not_told_the_future(self) -> Self:
        if self.model.causal and self.tokenization.kind != "learned":
            raise ValueError(
                f"tokenization.kind={self.tokenization.kind} with model.causal: a tokenizer may look ahead"
            )
        if self.model.causal and self.evaluation.average_strands:
            raise ValueError(
                "evaluation.average_strands with model.causal: the other strand shows the bases to predict"
            )
        return self

    def split_refusal(self) -> str:
        """Why ranks cannot share windows here (`engine.context_parallel`); empty if they can."""
        if self.engine.scan_backend == "triton":
            return "engine.scan_backend=triton reads windows on one rank; auto takes another where one is split"
        if self.engine.foresee_chunks:
            return "engine.foresee_chunks is made for windows on one rank; leave it out"
        return split_refusal(self.model, self.tokenization.kind)

    def data_ranks(self, world_size: int) -> int:
        """How many of so many ranks, or groups of ranks with `engine.context_parallel`, take windows of their own.

        Raises:
            ValueError: `engine.context_parallel` does not divide the number of ranks.
        """
        together = self.engine.context_parallel
        if world_size % together:
            raise ValueError(f"engine.context_parallel={together} does not divide {world_size} ranks; change one")
        return world_size // together

    def micro_batches(self, world_size: int) -> list[int]:
        """The micro-batches that `engine.micro_batch` may be with so many ranks, in windows, smallest first."""
        per_rank = [phase.global_batch // self.data_ranks(world_size) for phase in self.data.phases]
        together = math.gcd(*per_rank)  # passes of a step divide the windows of a rank in every phase
        return [per_rank[0] // passes for passes in range(together, 0, -1) if together % passes == 0]

    def with_micro_batch(self, windows: int) -> Self:
        """The same run with a number in place of `engine.micro_batch=auto`."""
        return self.model_copy(update={"engine": self.engine.model_copy(update={"micro_batch": windows})})

    def accumulation(self, world_size: int) -> int:
        """Forward passes of one rank in one optimizer step; 1 while `engine.micro_batch` is auto.

        Raises:
            ValueError: as `data_ranks`; the ranks do not divide batch or streams, or the micro-batch a rank's windows.
        """
        ranks = self.data_ranks(world_size)
        named = f"{ranks} ranks" if ranks == world_size else f"{ranks} groups of {world_size // ranks} ranks"
        for name, value in (("data.global_batch", self.data.global_batch), ("data.streams", self.data.streams)):
            if value % ranks:
                raise ValueError(f"{named} do not divide {name}={value}; change one of the two")
        per_rank = self.data.global_batch // ranks
        chosen = self.engine.micro_batch
        micro_batch = chosen if isinstance(chosen, int) else per_rank
        if per_rank % micro_batch:
            raise ValueError(
                f"engine.micro_batch={micro_batch} does not divide the {per_rank} windows that each of {named} "
                f"takes of data.global_batch={self.data.global_batch}; choose a divisor of {per_rank}"
            )
        passes = per_rank // micro_batch
        for phase in self.data.curriculum:
            if phase.global_batch % (ranks * passes):
                raise ValueError(
                    f"data.curriculum: global_batch={phase.global_batch} from step {phase.from_step} on does not "
                    f"divide into {named} x {passes} forward passes a step, as in the first phase"
                )
        return passes

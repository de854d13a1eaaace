"""The raw DeepSpeed keys that `engine.deepspeed` may hold, and the values that each key takes.

DeepSpeed ignores an unknown top-level key without a word, and it has models for only some of its sections. The other
sections are described here, for DeepSpeed 0.19.
"""

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.runtime.config import DtypeEnum
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from dnachunker.foundations.failures import BadInput, one_line


def _known_precision(name: str) -> str:
    DtypeEnum(name)  # raises ValueError
    return name


Precision = Annotated[str, AfterValidator(_known_precision)]
Communicated = Literal["fp16", "bf16", "fp32"]
Number = Annotated[float, Field(strict=True)]  # an integer too
Count = Annotated[int, Field(strict=True, gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TorchAutocast(_Section):
    enabled: StrictBool = False
    dtype: Precision | None = None
    lower_precision_safe_modules: list[str] | None = None


class DataTypes(_Section):
    grad_accum_dtype: Precision | None = None
    param_dtype: Precision | None = None
    buffer_dtype: Precision | None = None
    keep_in_fp32_modules: Literal["auto"] | list[str] = "auto"


class FlopsProfiler(_Section):
    enabled: StrictBool = False
    recompute_fwd_factor: Number = 0.0
    profile_step: StrictInt = 1
    module_depth: StrictInt = -1
    top_modules: StrictInt = 1
    detailed: StrictBool = True
    output_file: str | None = None


class Timers(_Section):
    throughput: DeepSpeedThroughputTimerConfig = Field(default_factory=DeepSpeedThroughputTimerConfig)


class Aio(_Section):
    block_size: Count = 1 << 20
    queue_depth: Count = 8
    intra_op_parallelism: Count = 1
    single_submit: StrictBool = False
    overlap_events: StrictBool = True
    use_gds: StrictBool = False


class _Keys(_Section):
    """The top-level keys. Only names and types count here: what a user leaves out is left to DeepSpeed."""

    zero_optimization: DeepSpeedZeroConfig = Field(default_factory=DeepSpeedZeroConfig)
    torch_autocast: TorchAutocast = TorchAutocast()
    data_types: DataTypes = DataTypes()
    aio: Aio | None = None
    comms_logger: CommsLoggerConfig = Field(default_factory=CommsLoggerConfig)
    flops_profiler: FlopsProfiler = FlopsProfiler()
    timers: Timers = Timers()
    tensorboard: TensorBoardConfig = Field(default_factory=TensorBoardConfig)
    wandb: WandbConfig = Field(default_factory=WandbConfig)
    csv_monitor: CSVConfig = Field(default_factory=CSVConfig)
    comet: CometConfig = Field(default_factory=CometConfig)
    communication_data_type: Communicated | None = None
    seq_parallel_communication_data_type: Communicated | None = None
    sequence_parallel_size: Literal[1] = 1  # every rank reads whole windows
    gradient_allreduce_op: Literal["mean"] = "mean"  # the engine counts on it
    prescale_gradients: StrictBool = False
    gradient_predivide_factor: Number = Field(1.0, gt=0)
    disable_allgather: StrictBool = False
    disable_python_gc: StrictBool = False
    dump_state: StrictBool = False
    log_level: Literal["debug", "info", "warning", "error", "critical"] | None = None
    memory_breakdown: StrictBool = False
    steps_per_print: Count | None = None
    vocabulary_size: Count | None = None
    wall_clock_breakdown: StrictBool = False


_SHOWN = 60  # characters of a wrong value: a longer one is left out of the message
_OURS = {
    "train_batch_size": "data.global_batch",
    "train_micro_batch_size_per_gpu": "engine.micro_batch",
    "gradient_accumulation_steps": "engine.micro_batch",
    "managed_gradient_accumulation": "engine.micro_batch",
    "gradient_clipping": "optimizer.clip_grad_norm",
    "optimizer": "optimizer",
    "zero_allow_untested_optimizer": "optimizer",
    "zero_force_ds_cpu_optimizer": "optimizer",
    "scheduler": "schedule",
    "bf16": "engine.precision",
    "bfloat16": "engine.precision",
    "fp16": "engine.precision",
    "activation_checkpointing": "engine.activation_checkpointing",
    "compile": "engine.compile",
    "zero_optimization.stage": "engine.zero_stage",
}
_ELSEWHERE = "checkpoints read the optimizer's states where DeepSpeed keeps them without it"
# DeepSpeed has these keys, and a run could not keep its promises with them, or would ignore them.
_UNFIT = {
    "autotuning": "DeepSpeed's own launcher starts its trials",
    "checkpoint": "checkpoints are written and read without DeepSpeed",
    "data_efficiency": "the order of samples would depend on DeepSpeed",
    "dataloader_drop_last": "samples come from our own loader",
    "datastates_ckpt": "a checkpoint would be called complete before its files are written",
    "expert_parallel": "the model has no experts",
    "hybrid_engine": "it is for models that generate while they train",
    "pipeline": "the model is not divided into pipeline stages",
    "tensor_parallel": "the model's layers are not divided among ranks; see engine.zero_stage",
    "use_data_before_expert_parallelism": "the model has no experts",
    "weight_quantization": "it is for inference",
    "zero_optimization.round_robin_gradients": "checkpoints would take the values of one parameter for another's",
    "zero_optimization.zenflow": _ELSEWHERE,
    "zero_optimization.compute_grad_norm": "guards and metrics read the norm of the gradients",
}


def require_valid(raw: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Refuse what DeepSpeed would ignore or reject, and what a setting of ours decides.

    Args:
        made: the whole configuration, with the raw keys in it: some values are valid only together with ours.

    Raises:
        BadInput: the message names the key, and our key or the nearest valid key.
    """
    inner = (f"{key}.{name}" for key, value in raw.items() if isinstance(value, Mapping) for name in value)
    for key in (*raw, *inner):
        if key in _OURS:
            raise BadInput(f"engine.deepspeed.{key}: set {_OURS[key]} instead; this key would contradict it")
        if key in _UNFIT:
            raise BadInput(f"engine.deepspeed.{key}: not usable here: {_UNFIT[key]}; remove this key")
    for name in ("offload_optimizer", "offload_param"):
        offload = raw.get("zero_optimization", {})
        offload = offload.get(name) if isinstance(offload, Mapping) else None
        for key, value in offload.items() if isinstance(offload, Mapping) else ():
            if (key, value) == ("device", "nvme") or key in ("super_offload", "ratio"):
                raise BadInput(
                    f"engine.deepspeed.zero_optimization.{name}.{key}: not usable here: {_ELSEWHERE}; remove this key"
                )
    try:
        _Keys.model_validate({key: made[key] for key in raw})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] != "extra_forbidden":
            given = repr(first["input"])
            given = f", not {given}" if len(given) <= _SHOWN else ""
            raise BadInput(f"engine.deepspeed.{key}: {' '.join(first['msg'].split())}{given}") from error
        level = [name for name in _names(_Keys) if name.count(".") == key.count(".")]
        nearest = difflib.get_close_matches(key, level, n=1, cutoff=0.0)[0]
        raise BadInput(f"engine.deepspeed: DeepSpeed has no key {key!r}; nearest valid key: {nearest!r}") from error
    except Exception as error:
        raise refusal(error) from error


def refusal(error: Exception) -> BadInput:
    """One line for an error of DeepSpeed's own checks, which raise many types."""
    return BadInput(f"engine.deepspeed: DeepSpeed refuses it: {one_line(error)}")


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of the keys of a model and of the models in it, under each name that DeepSpeed takes."""
    for field, info in model.model_fields.items():
        for name in {field, info.alias or field}:
            if prefix + name in _OURS or prefix + name in _UNFIT:
                continue
            yield prefix + name
            for part in (info.annotation, *typing.get_args(info.annotation)):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    yield from _names(part, f"{prefix}{name}.")

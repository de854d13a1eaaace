"""How the weights of a run start and how they are updated. Torch-free."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dnachunker.foundations.typed_config import Config

Share = Annotated[float, Field(ge=0, le=1)]


class OptimizerSettings(Config):
    """AdamW; no decay on norms, biases, A_log, D and embeddings."""

    lr: Annotated[float, Field(gt=0)] = Field(3e-3, description="highest learning rate of the schedule")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="decay of the mean of gradients")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="decay of the mean of squared gradients")
    eps: Annotated[float, Field(gt=0)] = Field(1e-8, description="added to the root of the mean of squares")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.1, description="decoupled; a step decays by lr times this")
    stage_lr: tuple[float, ...] | Literal["auto"] | None = Field(
        None,
        description="factors on lr: one for each stage from the outermost in, then one for the trunk; auto: the root "
        "of how many positions a level has for each position of the trunk; default: 1 everywhere (docs/model.md)",
    )
    clip_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="largest 2-norm of the gradients")
    ema: Annotated[float, Field(gt=0, le=0.25)] | None = Field(
        None,
        description="evaluate and export a running average of the weights over about this share of the updates so far, "
        "such as 0.1; training itself stays the same (docs/presets.md)",
    )

    @field_validator("stage_lr", mode="before")
    @classmethod
    def _factors_or_auto(cls, value: Any) -> Any:
        numbers = isinstance(value, list | tuple) and all(type(factor) in (int, float) for factor in value)
        if value in (None, "auto") or (numbers and all(0 < factor < math.inf for factor in value)):
            return value
        raise ValueError("must be a list of factors, each more than 0, or auto")


class ScheduleSettings(Config):
    """Learning rate over the steps, as shares of the run: linear warm-up, stable, decay to `final_share` x lr."""

    kind: Literal["wsd", "cosine", "constant"] = Field(
        "wsd", description="after warm-up: stable, then decay at the end; a cosine; or no decay"
    )
    warmup: Share = Field(0.1, description="share of the steps over which the rate rises linearly")
    decay: Share = Field(0.2, description="share of the steps spent decaying (wsd only)")
    decay_shape: Literal["linear", "1-sqrt"] = Field("1-sqrt", description="curve of the decay (wsd only)")
    final_share: Share = Field(0.0, description="rate of the last step, as a share of lr")
    ratio_warmup: Share = Field(
        0.0, description="share of the steps over which the weight of the ratio loss rises linearly from 0"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError("warmup + decay must not exceed 1")
        return self


class InitSettings(Config):
    """Which weights a new run starts from; the optimizer always starts fresh."""

    model: str | None = Field(
        None,
        description="export, or run folder (its newest checkpoint), of the same architecture; default: random weights",
    )
    reset: tuple[Literal["head", "routers"], ...] = Field(
        (), description="parts that start as in a new model all the same: head, routers"
    )

    @model_validator(mode="after")
    def _reset_needs_a_model(self) -> Self:
        if self.reset and self.model is None:
            raise ValueError("reset needs init.model: without it, every part starts as in a new model")
        return self

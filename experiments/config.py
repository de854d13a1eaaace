"""What a sweep is: a question, rows of overrides, seeds, a scale to ask it at, and what is measured of each run."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dnachunker.foundations.typed_config import Config

Positive = Annotated[int, Field(ge=1)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,79}")


def plain_name(name: str) -> str:
    """`name`, which may become a folder.

    Raises:
        ValueError: it may not.
    """
    # rows and analyses become folders, columns and SLURM tasks
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise ValueError("a name is made of letters, digits and . _ = , + -, begins with a letter or digit, up to 80")
    return name


Name = Annotated[str, AfterValidator(plain_name)]
Overrides = tuple[str, ...]


class CorpusSettings(Config):
    """Where the windows come from: a finished corpus, or a corpus config that is built once for all cells."""

    path: str | None = Field(None, description="a corpus made by `dnachunker shard`")
    config: str | None = Field(None, description="preset or file of `dnachunker shard`, built into the output folder")
    overrides: Overrides = Field((), description="of that config, such as sources.yeast.path=/data/sacCer3.fa.gz")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.path is None) == (self.config is None):
            raise ValueError("give either `path` (a corpus) or `config` (to build one)")
        return self


class BudgetSettings(Config):
    """What every cell may spend; its steps follow."""

    bases: Positive | None = Field(None, description="training bases of a cell")
    flops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="model FLOPs of a cell, as model/cost.py counts them for its own network and compression"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.bases is None) == (self.flops is None):
            raise ValueError("give either `bases` or `flops`")
        return self


class ScaleSettings(Config):
    """A size to ask the question at."""

    preset: str = Field(description="pretraining config: preset or file")
    overrides: Overrides = Field((), description="pretraining keys of every row at this scale")
    corpus: CorpusSettings
    budget: BudgetSettings
    evaluations: Positive = Field(6, description="held-out evaluations, and checkpoints, over a run")
    environment: dict[str, str] = Field(default_factory=dict, description="variables of every command")
    only: tuple[Name, ...] = Field((), description="rows run at this scale; default: all")


class ProbeSettings(Config):
    """`dnachunker finetune` of every export: the test set of each task is scored once."""

    folder: str | None = Field(None, description="folder with the tasks; without one nothing is probed")
    tasks: tuple[Name, ...] = Field((), description="task folders in it")
    method: Literal["probe", "lora", "full"] = "probe"
    overrides: Overrides = Field((), description="of the finetune config, such as rc_average=false")


class AnalysisSettings(Config):
    """One more `dnachunker` command about every cell, and what is read from it.

    In its arguments {export}, {run}, {corpus} and {output} are this cell's; {samples} holds the packaged genomes.
    """

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    read: str = Field(description="file under {output}: numbers of a .json, or a .csv")
    where: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="of a .csv: only rows with one of these values, by column"
    )
    by: tuple[str, ...] = Field((), description="of a .csv: columns whose values name a number")
    columns: tuple[str, ...] = Field((), description="of a .csv: columns that hold the numbers; of a .json: keys kept")


class PlotSettings(Config):
    """Points of two columns, a mark for each row with error bars."""

    x: str
    y: str
    pareto: bool = Field(False, description="draw the line of rows that no other beats in both, smaller being better")


class TrackingSettings(Config):
    """MLflow: one run for the sweep, and nested in it one for each cell."""

    enabled: bool = True
    uri: str | None = Field(None, description="default: MLFLOW_TRACKING_URI, else sqlite in the output folder")
    experiment: str = "dnachunker-sweep"


class SweepConfig(Config):
    """A sweep: rows x seeds at one scale."""

    name: Name
    question: str = Field(description="what the sweep is to answer; stands above the table")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    scale: Name = Field(description="one of `scales`")
    scales: Annotated[dict[Name, ScaleSettings], Field(min_length=1)]
    rows: dict[Name, Overrides] = Field(
        default_factory=dict, description="overrides by name; the first is the reference"
    )
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="instead of rows: values by pretraining key, every combination a row"
    )
    probe: ProbeSettings = ProbeSettings()
    analyses: dict[Name, AnalysisSettings] = Field(default_factory=dict)
    plots: tuple[PlotSettings, ...] = ()
    tracking: TrackingSettings = TrackingSettings()
    command: tuple[str, ...] = Field(
        (), description="how a step is started, such as [srun, --gpus=1, dnachunker]; default: this Python's dnachunker"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale not in self.scales:
            raise ValueError(f"scale {self.scale!r} is none of scales: {', '.join(self.scales)}")
        if bool(self.rows) == bool(self.grid):
            raise ValueError("give either `rows` or `grid`")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each may stand there once")
        return self

    @property
    def chosen(self) -> ScaleSettings:
        """The scale that is asked for."""
        return self.scales[self.scale]

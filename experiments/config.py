"""Config of a sweep: a question, rows of overrides, seeds, a scale, and what is measured of each run."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dnachunker.foundations.typed_config import Config

Positive = Annotated[int, Field(ge=1)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,79}")


def plain_name(name: str) -> str:
    """Return `name` if it can name a folder, a column and a SLURM task.

    Raises:
        ValueError: it cannot.
    """
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise ValueError("a name has up to 80 letters, digits and . _ = , + - and begins with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(plain_name)]
Overrides = tuple[str, ...]


class CorpusSettings(Config):
    """The corpus of all cells: a finished one, or a config from which it is built once."""

    path: str | None = Field(None, description="corpus made by `dnachunker shard`")
    config: str | None = Field(
        None, description="config of `dnachunker shard`: preset or file; built into the output folder"
    )
    overrides: Overrides = Field(
        (), description="overrides of that config, such as sources.yeast.path=/data/sacCer3.fa.gz"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.path is None) == (self.config is None):
            raise ValueError("give either `path` (a corpus) or `config` (to build one)")
        return self


class BudgetSettings(Config):
    """What every cell may spend; its number of steps is computed from it."""

    bases: Positive | None = Field(None, description="training bases of a cell")
    flops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="model FLOPs of a cell, counted by model/cost.py for the cell's network and compression"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.bases is None) == (self.flops is None):
            raise ValueError("give either `bases` or `flops`")
        return self


class ScaleSettings(Config):
    """A size of model, corpus and budget."""

    preset: str = Field(description="pretraining config: preset or file")
    overrides: Overrides = Field((), description="overrides of the pretraining config in every row")
    corpus: CorpusSettings = Field(description="corpus of all cells; give `path` or `config`")
    budget: BudgetSettings = Field(description="what a cell may spend; give `bases` or `flops`")
    evaluations: Positive = Field(6, description="held-out evaluations of a run; each writes a checkpoint")
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables of every step")
    only: tuple[Name, ...] = Field((), description="rows to run at this scale; empty for all")


class ProbeSettings(Config):
    """Classifiers trained by `dnachunker finetune` on every export; each scores its test set once."""

    folder: str | None = Field(None, description="folder with the tasks; null: no probes")
    tasks: tuple[Name, ...] = Field((), description="names of task folders in `folder`")
    method: Literal["probe", "lora", "full"] = Field("probe", description="method of `dnachunker finetune`")
    overrides: Overrides = Field((), description="overrides of the finetune config, such as rc_average=false")


class AnalysisSettings(Config):
    """One more `dnachunker` command for every cell, and what is read from its output."""

    command: tuple[str, ...] = Field(
        min_length=1,
        description="verb and arguments; {export}, {run}, {corpus}, {output}: the cell's; {samples}: sample genomes",
    )
    read: str = Field(description="file under {output} to read numbers from: .json or .csv")
    where: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description=".csv only: allowed values by column; other rows are left out"
    )
    by: tuple[str, ...] = Field((), description=".csv only: columns whose values name the numbers")
    columns: tuple[str, ...] = Field(
        (), description="columns of a .csv that hold the numbers; keys to keep of a .json (empty for all)"
    )


class PlotSettings(Config):
    """A plot of two metrics with a point and error bars for each row."""

    x: str = Field(description="metric of the horizontal axis")
    y: str = Field(description="metric of the vertical axis")
    pareto: bool = Field(False, description="join the rows that no other row beats in both metrics; smaller is better")


class TrackingSettings(Config):
    """MLflow: one MLflow run for the sweep, and one nested in it for each cell."""

    enabled: bool = Field(True, description="whether to send the sweep to MLflow")
    uri: str | None = Field(
        None, description="MLflow server; null: MLFLOW_TRACKING_URI, else mlflow.db beside the output folder"
    )
    experiment: str = Field("dnachunker-sweep", description="MLflow experiment")
    register_as: str | None = Field(
        None, description="registered model that gets the export of the best cell, with the alias `best`"
    )


class SweepConfig(Config):
    """A sweep: rows x seeds at one scale."""

    name: Name = Field(description="name of the sweep")
    question: str = Field(description="what the sweep answers; printed above the table")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2), min_length=1, description="random seeds; every row is trained with each"
    )
    scale: Name = Field(description="the scale to run, one of `scales`")
    scales: dict[Name, ScaleSettings] = Field(min_length=1, description="sizes of model, corpus and budget, by name")
    rows: dict[Name, Overrides] = Field(
        default_factory=dict, description="overrides of the pretraining config by row; the first row is the reference"
    )
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict, description="instead of `rows`: values by pretraining key; every combination is a row"
    )
    probe: ProbeSettings = Field(ProbeSettings(), description="classifiers trained on every export")
    analyses: dict[Name, AnalysisSettings] = Field(default_factory=dict, description="more commands by name")
    plots: tuple[PlotSettings, ...] = Field((), description="plots of two metrics")
    tracking: TrackingSettings = Field(TrackingSettings(), description="MLflow settings of the sweep and its cells")
    command: tuple[str, ...] = Field(
        (), description="argv before a step's own, such as [srun, --gpus=1, dnachunker]; empty: python -m dnachunker"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale not in self.scales:
            raise ValueError(f"scale {self.scale!r} is none of scales: {', '.join(self.scales)}")
        if bool(self.rows) == bool(self.grid):
            raise ValueError("give either `rows` or `grid`")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each may occur once")
        return self

    @property
    def chosen(self) -> ScaleSettings:
        """The scale to run."""
        return self.scales[self.scale]

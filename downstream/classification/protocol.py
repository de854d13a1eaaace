"""How an evaluation selects and tests: in independent cells, each of which writes one result.

A selection cell scores one setting on one fold of the training data. A test cell trains the chosen setting with one
seed and scores it on the test data. A selection cell is not told where the test data are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.model_selection import StratifiedKFold

from dnachunker.downstream.tasks.labelled import Labelled
from dnachunker.downstream.tasks.task_folders import Metric, Task
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import Config

from .config import Method, TrainingConfig


class ProtocolConfig(Config):
    """Folds, grid and seeds. Cells take the other choices from `training`."""

    folds: int = Field(default=10, ge=2, description="parts of the training data in cross-validation")
    seeds: int = Field(default=10, ge=1, description="models trained with the chosen setting and scored on test data")
    learning_rates: tuple[float, ...] = Field(
        default=(3e-4,), min_length=1, description="learning rates of the grid; full, lora and random-full only"
    )
    batch_sizes: tuple[int, ...] = Field(
        default=(32,),
        min_length=1,
        description="batch sizes of the grid, in sequences; full, lora and random-full only",
    )
    training: TrainingConfig = Field(
        default=TrainingConfig(),
        description="other choices; the grid sets learning_rate and batch_size, a cell the seed",
    )


@dataclass(frozen=True, order=True)
class Setting:
    """A point of the grid; both are None for a method without a grid."""

    learning_rate: float | None = None
    batch_size: int | None = None

    def __str__(self) -> str:
        return "default" if self.learning_rate is None else f"lr{self.learning_rate:g}-batch{self.batch_size}"


@dataclass(frozen=True)
class Cell:
    """One training, with everything that it needs.

    Attributes:
        fold: part of the training data that is held out: its score is the result (selection), or stops training (test).
        test: file of the test split; None in a selection cell.
        result: the JSON file to write; a test cell writes its predictions beside it.
        threads: of torch; None for torch's default.
    """

    model: Path
    task: str
    metric: Metric
    train: Path | None
    validation: Path | None
    test: Path | None
    method: Method
    config: TrainingConfig
    folds: int
    fold: int
    result: Path
    threads: int | None = None

    @property
    def predictions(self) -> Path:
        return self.result.with_suffix(".parquet")

    def read_training(self) -> Labelled:
        """All data of the task except the test split; the Task made here has no test file to read."""
        return Task(self.task, self.train, self.validation, Path(), self.metric).read_all_but_test()


def settings_of(method: Method, protocol: ProtocolConfig) -> list[Setting]:
    """The grid of a method. A linear method has one point; each of its cells chooses its own penalty."""
    if method in ("kmer", "probe", "random-probe"):
        return [Setting()]
    return [Setting(rate, size) for rate in protocol.learning_rates for size in protocol.batch_sizes]


def selection_cells(
    model: Path, tasks: Sequence[Task], methods: Sequence[Method], protocol: ProtocolConfig, folder: Path
) -> list[Cell]:
    """A cell for every (task, method, setting, fold)."""
    return [
        _cell(model, task, method, setting, fold, fold, protocol, folder / f"select-{setting}-fold{fold}.json")
        for task in tasks
        for method in methods
        for setting in settings_of(method, protocol)
        for fold in range(protocol.folds)
    ]


def test_cells(
    model: Path,
    tasks: Sequence[Task],
    methods: Sequence[Method],
    protocol: ProtocolConfig,
    folder: Path,
    chosen: dict[tuple[str, Method], Setting],
) -> list[Cell]:
    """A cell for every (task, method, seed) at the chosen setting; fold s % `folds` stops the training of seed s."""
    found = []
    for task in tasks:
        for method in methods:
            setting = chosen[task.name, method]
            for seed in range(protocol.seeds):
                name = folder / f"test-{setting}-seed{seed}.json"
                cell = _cell(model, task, method, setting, seed % protocol.folds, seed, protocol, name)
                found.append(Cell(**{**cell.__dict__, "test": task.test}))
    return found


def choose(
    tasks: Sequence[Task], methods: Sequence[Method], protocol: ProtocolConfig, folder: Path
) -> dict[tuple[str, Method], list[tuple[Setting, list[float]]]]:
    """By task and method: settings with their validation scores by fold, best mean first (of equals, in grid order).

    Raises:
        BadInput: a result is missing or damaged.
    """
    found = {}
    for task in tasks:
        for method in methods:
            scored = []
            for setting in settings_of(method, protocol):
                files = [
                    folder / task.name / method / f"select-{setting}-fold{fold}.json" for fold in range(protocol.folds)
                ]
                scored.append((setting, [float(read_result(path)["validation"]) for path in files]))
            found[task.name, method] = sorted(scored, key=lambda item: -float(np.mean(item[1])))
    return found


def read_result(path: Path) -> dict[str, Any]:
    """The result that a cell wrote.

    Raises:
        BadInput: the file is missing or not JSON.
    """
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a readable result ({error}); delete it and run this again") from error


def fold_rows(labels: NDArray[np.int64], folds: int, fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows held out, each class in proportion; the same folds for every method and setting.

    Raises:
        BadInput: a class has fewer sequences than there are folds.
    """
    if np.bincount(labels).min() < folds:
        raise BadInput(f"{folds} folds need {folds} sequences of each class; there are {np.bincount(labels).tolist()}")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    return list(splitter.split(np.zeros(len(labels)), labels))[fold]


def _cell(
    model: Path,
    task: Task,
    method: Method,
    setting: Setting,
    fold: int,
    seed: int,
    protocol: ProtocolConfig,
    path: Path,
) -> Cell:
    changes: dict[str, Any] = {"seed": seed}
    if setting.learning_rate is not None:
        changes |= {"learning_rate": setting.learning_rate, "batch_size": setting.batch_size}
    config = protocol.training.model_copy(update=changes)
    result = path.parent / task.name / method / path.name
    return Cell(
        model, task.name, task.metric, task.train, task.validation, None, method, config, protocol.folds, fold, result
    )

"""Classification tasks on disk, and the suites they belong to.

A task is a folder with a training split, perhaps a validation split, and a test split. A suite names its tasks, their
source, and published scores. The two Nucleotide Transformer suites share only names of tasks, so they are different
suites here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from yaml import safe_load

from dnachunker.dataprep.genomes.file_kinds import unpacked_name
from dnachunker.dataprep.genomes.input_file import check_regular, hash_file
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import Config, validate_config

from .labelled import Labelled, data_suffix, join, read_labelled

_SPLITS = dict.fromkeys(("dev", "valid", "val", "validation"), "validation") | {"train": "train", "test": "test"}

Metric = Literal["mcc", "f1", "accuracy", "auroc", "auprc"]


class TaskFacts(Config):
    """Published facts about a task."""

    length: int | None = Field(default=None, description="bases of the longest sequence; null: various lengths")
    classes: int = Field(ge=2, description="number of classes")
    train: int | None = Field(default=None, description="published number of training sequences; null if unknown")
    test: int | None = Field(default=None, description="published number of test sequences; null if unknown")
    metric: Metric = Field(default="mcc", description="metric of the task's headline score")
    folder: str | None = Field(default=None, description="folder in the suite's data; null: the task's name")


class Published(Config):
    """A published score. It is never computed here."""

    model: str = Field(description="name of the model")
    average: float = Field(description="mean over the suite's tasks, in the suite's metric")
    source: str = Field(description="publication of the score")


class Suite(Config):
    """A set of tasks that are reported together."""

    name: str = Field(description="name on the command line")
    title: str = Field(description="heading of the tables")
    metric: Metric = Field(default="mcc", description="metric of the headline scores")
    source: Literal["huggingface", "coordinates", "folder"] = Field(
        default="folder", description="kind of source: a dataset on the hub, coordinates to cut, or local folders"
    )
    repository: str | None = Field(default=None, description="repository of the source, as OWNER/NAME")
    revision: str = Field(default="main", description="revision of the repository")
    licence: str | None = Field(default=None, description="licence of the data")
    tasks: dict[str, TaskFacts] = Field(description="facts about each task, by name")
    published: tuple[Published, ...] = Field(default=(), description="published scores to show beside measured ones")

    @property
    def origin(self) -> dict[str, str | None]:
        """The source that is stored in a fetched task folder."""
        return {"suite": self.name, "repository": self.repository, "revision": self.revision}


@dataclass(frozen=True)
class Task:
    """The files of one task. Only `read_test` reads the test split."""

    name: str
    train: Path | None
    validation: Path | None
    test: Path
    metric: Metric

    def read_training(self) -> tuple[Labelled, Labelled | None]:
        """The training split, and the validation split if there is one."""
        if self.train is None:
            assert self.validation is not None
            return read_labelled(self.validation), None  # a validation split without a training split is trained on
        train = read_labelled(self.train)
        if self.validation is None:
            return train, None
        return train, read_labelled(self.validation, train.classes)

    def identity(self) -> dict[str, list[Any]]:
        """Size and sha256 of each file by name; of the test file only the size, as only `read_test` may open it."""
        found: dict[str, list[Any]] = {}
        for path in (self.train, self.validation):
            if path is not None:
                digest, size = hash_file(path)
                found[path.name] = [size, digest]
        return found | {self.test.name: [self.test.stat().st_size]}

    def read_all_but_test(self) -> Labelled:
        """All data except the test split."""
        train, validation = self.read_training()
        return train if validation is None else join([train, validation])

    def read_test(self, classes: Sequence[str]) -> Labelled:
        """The test split, with the classes of training."""
        return read_labelled(self.test, classes)


ORIGIN = "source.json"
SAMPLE_TASKS = {"sample:coding": Path(__file__).parent / "sample_coding"}  # they ship with the package
SUITES = ("nt", "nt-revised", "genomic-benchmarks", "gue")


def load_suite(name: str) -> Suite:
    """One of the suites that this project knows.

    Raises:
        BadInput: no such suite.
    """
    if name not in SUITES:
        raise BadInput(
            f"suite {name!r}: none of {', '.join(SUITES)}, and no folder of that name; "
            f"{', '.join(SAMPLE_TASKS)} ships with the package"
        )
    text = (Path(__file__).parent / "suites" / f"{name}.yaml").read_text("utf-8")
    return validate_config(Suite, safe_load(text), origin=f"suite {name}")


def find_task(folder: Path, metric: Metric = "mcc") -> Task:
    """The task in a folder whose files are named train, dev (or valid, val, validation) and test, or a sample task.

    Raises:
        BadInput: no such folder; no training or no test split; two files for one split.
    """
    folder = SAMPLE_TASKS.get(str(folder), folder).absolute()  # Ray's workers have another current folder
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder; a task is a folder with train and test files, or {', '.join(SAMPLE_TASKS)}"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = data_suffix(path)
        split = _SPLITS.get(unpacked_name(path).removesuffix(suffix)) if suffix else None
        if split is None:
            continue
        if split in found:
            raise BadInput(f"{folder}: both {found[split].name} and {path.name} are its {split} split; keep one")
        check_regular(path)
        found[split] = path
    if "test" not in found or not {"train", "validation"} & set(found):
        raise BadInput(f"{folder}: a task needs a train and a test file, such as train.csv.gz and test.csv.gz")
    return Task(folder.name, found.get("train"), found.get("validation"), found["test"], metric)


def suite_tasks(suite: str, data: Path | None) -> tuple[Suite, list[Task]]:
    """A suite and its tasks on disk.

    Args:
        suite: a known name, with its task folders in `data`; or a folder of task folders; or one task folder; or a
            sample task.

    Raises:
        BadInput: a task's folder is missing, or of another suite; the message names it.
    """
    if suite in SUITES:
        known = load_suite(suite)
        if data is None:
            place = f"of the unpacked archive of {known.repository}"
            wanted = place if known.source == "folder" else f"that `dnachunker tasks fetch {suite}` wrote"
            raise BadInput(f"suite {suite}: --data is missing: the folder {wanted}")
        found = []
        for name, facts in known.tasks.items():
            folder = data / (facts.folder or name)
            check_origin(folder, known)
            found.append(replace(find_task(folder, facts.metric), name=name))
        return known, found
    folder = SAMPLE_TASKS.get(suite, Path(suite))
    if not folder.is_dir():
        load_suite(suite)
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and _looks_like_task(path)]
    found = [find_task(path) for path in inner] or [find_task(folder)]
    name = folder.absolute().name
    return Suite(name=name, title=name, tasks={task.name: TaskFacts(classes=2) for task in found}), found


def check_origin(folder: Path, suite: Suite) -> None:
    """Refuse a task folder that was fetched for another suite; a folder made by hand, without source.json, passes.

    Raises:
        BadInput: the folder is of another suite, repository or revision.
    """
    stored = folder / ORIGIN
    if not stored.is_file():
        return
    try:
        found = json.loads(stored.read_text("utf-8"))
    except ValueError as error:
        raise BadInput(f"{stored}: not readable: {error}; delete {folder} and fetch it again") from error
    if found != suite.origin:
        raise BadInput(f"{folder}: was fetched for {found}, not for {suite.origin}; fetch it again into another folder")


def split_validation(data: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Training and validation parts of `data`, each class in proportion; a pure function of its arguments."""
    rng = np.random.default_rng([seed, 0x5EED])
    held = np.zeros(len(data), bool)
    for number in range(len(data.classes)):
        rows = rng.permutation(np.flatnonzero(data.labels == number))
        held[rows[: max(1, round(share * len(rows))) if len(rows) > 1 else 0]] = True
    return data.take(np.flatnonzero(~held)), data.take(np.flatnonzero(held))


def _looks_like_task(folder: Path) -> bool:
    return any(path.name.lower().startswith("test.") and data_suffix(path) for path in folder.iterdir())

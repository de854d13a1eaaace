"""Classification tasks on disk, and the suites they belong to.

A task is a folder with a training split, perhaps one for validation, and a test split. A suite names its tasks, where
they come from, and what others have published on them. The two Nucleotide Transformer suites share task names and
nothing else, so they are different suites here.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from yaml import safe_load

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import Config, validate_config

from .labelled import Labelled, data_suffix, join, read_labelled

_SPLITS = dict.fromkeys(("dev", "valid", "val", "validation"), "validation") | {"train": "train", "test": "test"}

Metric = Literal["mcc", "f1", "accuracy", "auroc", "auprc"]


class TaskFacts(Config):
    """What a suite says of a task; `length` is the sequences' in bases, the longest one's where they differ."""

    length: int | None = None
    classes: int = Field(ge=2)
    train: int | None = None
    test: int | None = None
    metric: Metric = "mcc"


class Published(Config):
    """A row of somebody's table, averaged over the suite's tasks. Never computed here."""

    model: str
    average: float
    source: str


class Suite(Config):
    """A set of tasks that are reported together."""

    name: str
    title: str
    metric: Metric = "mcc"
    source: Literal["huggingface", "coordinates", "folder"] = "folder"
    repository: str | None = None
    revision: str = "main"
    licence: str | None = None
    tasks: dict[str, TaskFacts]
    published: tuple[Published, ...] = ()

    @property
    def origin(self) -> dict[str, str | None]:
        """What a fetched task folder says of where it is from."""
        return {"suite": self.name, "repository": self.repository, "revision": self.revision}


@dataclass(frozen=True)
class Task:
    """The files of one task. The test split's is read by `read_test` alone."""

    name: str
    train: Path | None
    validation: Path | None
    test: Path
    metric: Metric

    def read_training(self) -> tuple[Labelled, Labelled | None]:
        """The training split, and the validation split where there is one beside it."""
        if self.train is None:
            assert self.validation is not None
            return read_labelled(self.validation), None  # only that was published: it is what one may train on
        train = read_labelled(self.train)
        if self.validation is None:
            return train, None
        return train, read_labelled(self.validation, train.classes)

    def identity(self) -> dict[str, list[Any]]:
        """By file, size and sha256; of the test file the size alone, since nothing may open it yet."""
        found: dict[str, list[Any]] = {}
        for path in (self.train, self.validation):
            if path is not None:
                with path.open("rb") as file:
                    found[path.name] = [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
        return found | {self.test.name: [self.test.stat().st_size]}

    def read_all_but_test(self) -> Labelled:
        """Everything a model may see before the test."""
        train, validation = self.read_training()
        return train if validation is None else join([train, validation])

    def read_test(self, classes: Sequence[str]) -> Labelled:
        """The test split, with the classes of training."""
        return read_labelled(self.test, classes)


ORIGIN = "source.json"
SUITES = ("nt", "nt-revised", "genomic-benchmarks")


def load_suite(name: str) -> Suite:
    """One of the suites this project knows.

    Raises:
        BadInput: no such suite.
    """
    if name not in SUITES:
        raise BadInput(f"suite {name!r}: none of {', '.join(SUITES)}, and no folder of that name")
    text = (Path(__file__).parent / "suites" / f"{name}.yaml").read_text("utf-8")
    return validate_config(Suite, safe_load(text), origin=f"suite {name}")


def find_task(folder: Path, metric: Metric = "mcc") -> Task:
    """The task in a folder whose files are named train, dev (or valid, val, validation) and test.

    Raises:
        BadInput: no such folder; no training or no test split; two files for one split.
    """
    folder = folder.absolute()  # Ray's workers run elsewhere
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; a task is a folder with train and test files")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = data_suffix(path)
        split = _SPLITS.get(path.name.lower().removesuffix(".gz").removesuffix(suffix)) if suffix else None
        if split is None:
            continue
        if split in found:
            raise BadInput(f"{folder}: both {found[split].name} and {path.name} are its {split} split; keep one")
        found[split] = path
    if "test" not in found or not {"train", "validation"} & set(found):
        raise BadInput(f"{folder}: a task needs a train and a test file, such as train.csv.gz and test.csv.gz")
    return Task(folder.name, found.get("train"), found.get("validation"), found["test"], metric)


def suite_tasks(suite: str, data: Path | None) -> tuple[Suite, list[Task]]:
    """A suite and its tasks on disk.

    Args:
        suite: a known name, whose tasks lie as folders in `data`; or a folder of task folders, or of one task.

    Raises:
        BadInput: a task's folder is missing, or of another suite; the message says which and how to get it.
    """
    if suite in SUITES:
        known = load_suite(suite)
        if data is None:
            raise BadInput(f"suite {suite}: --data is missing: the folder `dnachunker tasks fetch {suite}` filled")
        for name in known.tasks:
            check_origin(data / name, known)
        return known, [find_task(data / name, facts.metric) for name, facts in known.tasks.items()]
    folder = Path(suite)
    if not folder.is_dir():
        load_suite(suite)
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and _looks_like_task(path)]
    found = [find_task(path) for path in inner] or [find_task(folder)]
    name = folder.absolute().name
    facts = {task.name: TaskFacts(classes=2) for task in found}
    return Suite(name=name, title=name, tasks=facts), found


def check_origin(folder: Path, suite: Suite) -> None:
    """Refuse a task folder fetched for another suite; a folder that was made by hand says nothing and passes.

    Raises:
        BadInput: it is of another suite, repository or revision.
    """
    stored = folder / ORIGIN
    if not stored.is_file():
        return
    try:
        found = json.loads(stored.read_text("utf-8"))
    except ValueError as error:
        raise BadInput(f"{stored}: not readable: {error}; delete {folder} and fetch it again") from error
    if found != suite.origin:
        raise BadInput(f"{folder}: was fetched for {found}, and this is {suite.origin}; use another folder")


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

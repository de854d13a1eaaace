"""The cells of a sweep, one for each row and seed: the argv of each step, and the paths of the results."""

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dnachunker.dataprep.config import SAMPLE_FOLDER
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import find_config, load_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.records.event_log import read_events

from .budget import steps_of
from .config import AnalysisSettings, ProbeSettings, SweepConfig, plain_name

RESULT, FAILURE, LOG = "result.json", "failure.json", "log.txt"
_INDEX = "index.json"  # of a corpus; written last


@dataclass(frozen=True)
class Cell:
    """One run of a sweep and what is measured of it.

    Attributes:
        overrides: of the preset, with the steps and the seed.
        config: the resolved pretraining config.
        measured: the measurements that are asked for, as JSON. A change of them does not train a finished cell again.
    """

    row: str
    seed: int
    folder: Path
    corpus: str
    overrides: tuple[str, ...]
    config: PretrainConfig
    measured: str

    @property
    def name(self) -> str:
        """What `--cell` takes."""
        return f"{self.row}:{self.seed}"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def result(self) -> Path:
        """Written last; see `is_finished`."""
        return self.folder / RESULT

    def is_finished(self) -> bool:
        """Whether the result exists and holds every measurement that is asked for."""
        return self.result.is_file() and json.loads(self.result.read_text("utf-8"))["measured"] == self.measured


@dataclass(frozen=True)
class Step:
    """One `dnachunker` command of a cell.

    Attributes:
        argv: verb and arguments.
        done: tells whether an earlier attempt has finished the step.
    """

    name: str
    argv: tuple[str, ...]
    done: partial[bool]


def expand(sweep: SweepConfig, output: Path) -> list[Cell]:
    """All cells, seed by seed, so that an unfinished sweep already has every row.

    Raises:
        BadInput: a row that pretraining refuses; the message names it.
    """
    scale = sweep.chosen
    rows = rows_of(sweep)
    for name in scale.only:
        if name not in rows:
            raise BadInput(f"scales.{sweep.scale}.only: {name!r} is none of the rows: {', '.join(rows)}")
    chosen = {name: overrides for name, overrides in rows.items() if not scale.only or name in scale.only}
    folded = {name.casefold() for name in chosen}
    if len(folded) < len(chosen):
        raise BadInput(f"rows: two names differ in case only; on some disks they are one folder: {', '.join(chosen)}")
    return [_cell(sweep, output, row, overrides, seed) for seed in sweep.seeds for row, overrides in chosen.items()]


def rows_of(sweep: SweepConfig) -> dict[str, tuple[str, ...]]:
    """Overrides by row, in order; a row of a grid is named after its values."""
    if sweep.rows:
        return dict(sweep.rows)
    found: dict[str, tuple[str, ...]] = {}
    for values in itertools.product(*sweep.grid.values()):
        texts = ["-".join(map(str, value)) if isinstance(value, list | tuple) else str(value) for value in values]
        keys = [key.rpartition(".")[2] for key in sweep.grid]
        name = texts[0] if len(texts) == 1 else ",".join(f"{k}={text}" for k, text in zip(keys, texts, strict=True))
        try:
            plain_name(name)
        except ValueError as error:
            raise BadInput(f"grid: {name!r} cannot name a row ({error}); write `rows` instead") from error
        found[name] = tuple(f"{key}={json.dumps(value)}" for key, value in zip(sweep.grid, values, strict=True))
    return found


def _cell(sweep: SweepConfig, output: Path, row: str, overrides: Sequence[str], seed: int) -> Cell:
    scale = sweep.chosen
    folder = output / "cells" / row / f"seed-{seed}"
    corpus = scale.corpus.path or str(_corpus_folder(sweep, output))
    settings = {"run": str(folder / "run"), "data.corpus": corpus, "seed": seed}

    def resolve(extra: Sequence[str]) -> PretrainConfig:
        try:
            return load_config(PretrainConfig, scale.preset, extra, kind="pretrain", settings=settings)
        except BadInput as error:
            raise BadInput(f"row {row!r}: {error}") from error

    given = [*scale.overrides, *overrides]
    steps = steps_of(sweep.chosen.budget, resolve(given))
    every = -(-steps // scale.evaluations)
    budget = [f"steps={steps}", f"evaluation.every={every}", f"checkpoint.every={every}"]
    every_override = (*given, *budget, f"seed={seed}")
    measured: dict[str, Any] = {"analyses": {k: v.model_dump(mode="json") for k, v in sweep.analyses.items()}}
    if sweep.probe.folder:
        measured["probe"] = sweep.probe.model_dump(mode="json", exclude={"folder"})
    return Cell(row, seed, folder, corpus, every_override, resolve(every_override), json.dumps(measured))


def identity(sweep: SweepConfig, cell: Cell, *, with_defaults: bool = False) -> dict[str, Any]:
    """Everything that a cell's training depends on, as flat keys; not its folder, MLflow, launch and loader settings.

    Keys at their defaults are left out, so that a version with more keys can continue an older sweep.
    """
    corpus = sweep.chosen.corpus
    elsewhere = {"run", "tracking", "launch", "loader"}
    resolved = cell.config.model_dump(mode="json", exclude=elsewhere, exclude_defaults=not with_defaults)
    resolved["data"]["corpus"] = corpus.path or " ".join([str(corpus.config), *corpus.overrides])
    return dict(_flat(resolved))


def corpus_step(sweep: SweepConfig, output: Path) -> Step | None:
    """The step that builds the corpus; None if the scale names a finished one."""
    corpus = sweep.chosen.corpus
    if corpus.config is None:
        return None
    folder = _corpus_folder(sweep, output)
    argv = ("shard", "--config", corpus.config, "--output", str(folder), *corpus.overrides)
    return Step("shard", argv, partial((folder / _INDEX).is_file))


def _corpus_folder(sweep: SweepConfig, output: Path) -> Path:
    corpus = sweep.chosen.corpus
    text = find_config(str(corpus.config), "corpus").read_text("utf-8")
    return output / f"corpus-{_digest(text, *corpus.overrides)}"


def steps(sweep: SweepConfig, cell: Cell, mlflow: Sequence[str]) -> Iterator[Step]:
    """The steps of a cell, in order. The output of a step is complete or absent, or the step can continue it.

    Args:
        mlflow: overrides of `pretrain` with the MLflow settings of the run.
    """
    yield Step(
        "pretrain",
        ("pretrain", "--config", sweep.chosen.preset, "--corpus", cell.corpus, "--run", str(cell.run),
         *cell.overrides, *mlflow),
        partial(_trained, cell),
    )  # fmt: skip
    # the step is named, so that cells are compared after equal training, and a run that diverged is a result too
    export = ("export", str(cell.run), str(cell.export), "--step", str(cell.config.steps))
    yield Step("export", export, partial(cell.export.is_dir))
    probe = sweep.probe
    if probe.folder and probe.tasks:
        tasks = [word for task in probe.tasks for word in ("--task", str(Path(probe.folder, task)))]
        output = probe_folder(sweep, cell)
        yield Step(
            "probe",
            ("finetune", "--model", str(cell.export), *tasks, "--output", str(output), "--method", probe.method,
             *probe.overrides),
            partial(_probed, output, probe),
        )  # fmt: skip
    for name, analysis in sweep.analyses.items():
        output = analysis_folder(cell, name, analysis)
        places = {
            "export": cell.export, "run": cell.run, "corpus": cell.corpus, "output": output, "samples": SAMPLE_FOLDER,
        }  # fmt: skip
        argv = tuple(_filled(word, places) for word in analysis.command)
        yield Step(name, argv, partial((output / analysis.read).is_file))


def probe_folder(sweep: SweepConfig, cell: Cell) -> Path:
    """Folder of a cell's classifiers; its name depends on the method and the overrides."""
    return cell.folder / f"probe-{_digest(sweep.probe.method, *sweep.probe.overrides)}"


def analysis_folder(cell: Cell, name: str, analysis: AnalysisSettings) -> Path:
    """Folder of an analysis of a cell; its name depends on the analysis command."""
    return cell.folder / f"{name}-{_digest(*analysis.command)}"


def argv_prefix(sweep: SweepConfig) -> tuple[str, ...]:
    """The argv before a step's own, such as `python -m dnachunker`."""
    return sweep.command or (sys.executable, "-m", "dnachunker")


def _trained(cell: Cell) -> bool:
    last = next((e for e in reversed(read_events(cell.run)) if e["event"] == "finish"), None)
    return bool(last) and last["steps_done"] == cell.config.steps  # type: ignore[index]


def _probed(output: Path, probe: ProbeSettings) -> bool:
    return all((output / task / probe.method / RESULT).is_file() for task in probe.tasks)


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def _filled(word: str, places: dict[str, Any]) -> str:
    for name, value in places.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

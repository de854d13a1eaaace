"""`dnachunker evaluate`: select on training data, then test once, for every task and method of a suite; resumable."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.similarity.overlap import shares_in_train
from dnachunker.downstream.exported import open_exported
from dnachunker.downstream.output_folder import claim_folder
from dnachunker.downstream.tasks.metrics import NAMES, bootstrap_interval
from dnachunker.downstream.tasks.task_folders import Suite, Task, suite_tasks
from dnachunker.foundations.atomic_files import write_json, write_text
from dnachunker.foundations.progress import Progress

from .cells import run_cell
from .config import Method
from .leaderboard import Row, write_tables
from .methods import DESCRIPTIONS
from .mlflow_runs import log_evaluation
from .on_ray import run_on_ray
from .protocol import (
    Cell,
    ProtocolConfig,
    Setting,
    choose,
    fold_rows,
    read_result,
    selection_cells,
    settings_of,
    test_cells,
)

SELECTED = "selected.json"
SELECTION = "selection.csv"


def evaluate(
    model: Path,
    suite: str,
    data: Path | None,
    methods: Sequence[Method],
    output: Path,
    protocol: ProtocolConfig,
    *,
    ray: str | None = None,
    workers: int = 1,
    mlflow: str | None = None,
    corpus: str | None = None,
) -> list[Path]:
    """Evaluate an exported model; after a kill, the same call continues with the missing cells.

    Args:
        suite: a known suite, whose tasks are folders in `data`; or a folder of tasks.
        ray: None runs one cell after another in this process; `local` runs `workers` Ray tasks at a time here; else the
            address of a Ray cluster.
        mlflow: URI of the MLflow server; None sends nothing.
        corpus: of the model; a note of the tables says how much of each test set its training split holds.

    Returns:
        The tables written.

    Raises:
        BadInput: no such model, suite or task; unreadable data; `output` was made with other options.
    """
    output = output.absolute()  # Ray's workers have another current folder
    exported = open_exported(model)
    opened = Corpus.open(corpus) if corpus else None
    described, tasks = suite_tasks(suite, data)
    for task in tasks:
        fold_rows(task.read_all_but_test().labels, protocol.folds, 0)  # unusable data fail now, not after hours
    claim_folder(
        output,
        {"verb": "evaluate", "model": exported.fingerprint, "suite": described.name,
         **{f"data of {task.name}": task.identity() for task in tasks},
         **protocol.model_dump(mode="json")},
    )  # fmt: skip
    folder = output / "cells"
    _run_missing(selection_cells(exported.folder, tasks, methods, protocol, folder), "selecting", ray, workers)
    scored = choose(tasks, methods, protocol, folder)
    chosen = {key: ranked[0][0] for key, ranked in scored.items()}
    _store_selection(output, scored, chosen)
    cells = test_cells(exported.folder, tasks, methods, protocol, folder, chosen)
    _run_missing(cells, "testing", ray, workers)
    rows = _rows(cells, chosen, protocol)
    notes = _notes(described, methods, protocol)
    unknown = "Not checked: how much of the test sequences the model's training corpus holds; `--corpus` names it."
    written = write_tables(output, described, rows, [*notes, unknown])
    if opened:  # again, since a corpus that cannot be read must not cost the tables
        written = write_tables(output, described, rows, [*notes, _overlap_note(opened, tasks)])
    if mlflow is not None:
        log_evaluation(output, mlflow, described.name, exported.folder, protocol.model_dump(mode="json"), rows, written)
    return written


def _run_missing(cells: Sequence[Cell], title: str, ray: str | None, workers: int) -> None:
    missing = [cell for cell in cells if not cell.result.is_file()]
    with Progress(title, len(cells), "cell") as bar:
        bar.update(len(cells) - len(missing))
        if not missing:
            return
        finished: Iterable[Path] = map(run_cell, missing) if ray is None else run_on_ray(missing, ray, workers)
        for path in finished:
            bar.set_postfix_str(f"{path.parent.parent.name} {path.parent.name}", refresh=False)
            bar.update(1)


def _store_selection(
    output: Path,
    scored: dict[tuple[str, Method], list[tuple[Setting, list[float]]]],
    chosen: dict[tuple[str, Method], Setting],
) -> None:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["task", "method", "learning_rate", "batch_size", "validation_mean", "folds", "chosen"])
    for (task, method), ranked in scored.items():
        for setting, folds in ranked:
            numbers = [setting.learning_rate or "", setting.batch_size or "", round(float(np.mean(folds)), 6)]
            out.writerow([task, method, *numbers, " ".join(f"{value:.6f}" for value in folds),
                          int(setting == chosen[task, method])])  # fmt: skip
    write_text(output / SELECTION, text.getvalue())
    write_json(output / SELECTED, [
        {"task": task, "method": method, "learning_rate": setting.learning_rate, "batch_size": setting.batch_size}
        for (task, method), setting in chosen.items()
    ])  # fmt: skip


def _rows(cells: Sequence[Cell], chosen: dict[tuple[str, Method], Setting], protocol: ProtocolConfig) -> list[Row]:
    grouped: dict[tuple[str, Method], list[Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.task, cell.method), []).append(cell)
    rows = []
    for (task, method), group in grouped.items():
        records = [read_result(cell.result) for cell in group]
        scores = {name: [_number(record["scores"][name]) for record in records] for name in NAMES}
        tables = [pq.read_table(cell.predictions) for cell in group]
        labels = np.asarray(tables[0].column("label"))
        predictions = [np.column_stack([np.asarray(column) for column in table.columns[1:]]) for table in tables]
        metric = group[0].metric
        interval = bootstrap_interval(labels, predictions, metric, resamples=protocol.training.bootstrap)
        diverged = sum("diverged" in record["training"] for record in records)
        setting = f"{chosen[task, method]}, best of {len(settings_of(method, protocol))}, {protocol.seeds} seeds"
        setting += f", {diverged} of them diverged" if diverged else ""
        rows.append(Row(task, method, metric, scores, interval, len(labels), setting))
    return rows


def _notes(suite: Suite, methods: Sequence[Method], protocol: ProtocolConfig) -> list[str]:
    grid = len(protocol.learning_rates) * len(protocol.batch_sizes)
    notes = [
        f"One of {grid} settings is chosen by its mean score over {protocol.folds} folds of the training data. It is "
        f"then trained with {protocol.seeds} seeds, each stopped by one fold, and scored on the test data. The choice "
        "does not read the test data.",
        "± is the standard deviation over seeds. The interval is a 95 % bootstrap over test sequences, of the mean "
        f"over seeds ({protocol.training.bootstrap:,} resamples).",
        *(f"{method}: {DESCRIPTIONS[method]}." for method in methods),
    ]
    if suite.published:
        notes.append("Rows in italics were published by others and not measured here.")
    return notes


def _overlap_note(corpus: Corpus, tasks: Sequence[Task]) -> str:
    """How much of the test data the corpus holds; reads the test data, so it comes after the scores."""
    tests = {task.name: task.read_test(task.read_training()[0].classes).sequences for task in tasks}
    shares = shares_in_train(corpus, tests)
    listed = ", ".join(
        f"{name} {'too short' if math.isnan(share) else f'{100 * share:.1f} %'}" for name, share in shares.items()
    )
    return (
        f"31-mers of the test sequences, on either strand, that the training split of the corpus given (fingerprint "
        f"{corpus.fingerprint[:12]}) holds: {listed}."
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value

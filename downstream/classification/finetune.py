"""`dnachunker finetune`: train on a task, stop by the validation score, test once, compare methods."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dnachunker.downstream.exported import Exported, make_deterministic, open_exported
from dnachunker.downstream.output_folder import claim_folder
from dnachunker.downstream.tasks.metrics import all_scores, bootstrap_interval
from dnachunker.downstream.tasks.task_folders import Suite, Task, TaskFacts, find_task, split_validation
from dnachunker.foundations.atomic_files import new_folder, write_json
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.progress import Progress

from .config import Method, TrainingConfig
from .leaderboard import Row, write_tables
from .methods import DESCRIPTIONS, Trained, save_network, train_method
from .ranks import Ranks, joined_ranks

RESULT = "result.json"
PREDICTIONS = "predictions.parquet"


def finetune(
    model: Path, tasks: Sequence[Path], methods: Sequence[Method], output: Path, config: TrainingConfig
) -> list[Path]:
    """Run every method on every task; finished results in `output` are kept if their options are the same.

    Returns:
        The tables written.

    Raises:
        BadInput: no such model or task, unreadable data, or `output` was made with other options; no half-written file.
    """
    exported = open_exported(model)
    found = [find_task(folder) for folder in tasks]
    if len({task.name for task in found}) < len(found):
        raise BadInput("two tasks have the same name; each needs a folder name of its own")
    for task in found:
        task.read_training()  # unusable data fail before anything is written
    pairs = [(task, method, output / task.name / method) for task in found for method in methods]
    for task, _, folder in pairs:
        _check_data(folder, task)
    with joined_ranks() as ranks:
        if ranks.is_main:
            claim_folder(output, {"verb": "finetune", "model": exported.fingerprint, **config.model_dump(mode="json")})
        for task, method, folder in pairs:
            if not (folder / RESULT).is_file():
                _run(exported, task, method, folder, config, ranks)
    if not ranks.is_main:
        return []
    done = [read_row(folder) for _, _, folder in pairs]
    suite = Suite(name="finetune", title="Fine-tuning", tasks={task.name: TaskFacts(classes=2) for task in found})
    notes = [
        "Each score is of the whole test set, read once after training. The interval is a 95 % bootstrap over its "
        f"sequences ({config.bootstrap:,} resamples).",
        "Only the validation part decides when training stops. No setting was tuned on the test set.",
        *(f"{method}: {DESCRIPTIONS[method]}." for method in methods),
    ]
    return write_tables(output, suite, done, notes)


def _check_data(folder: Path, task: Task) -> None:
    """Refuse an earlier result whose task has the same name and other data."""
    if (folder / RESULT).is_file():
        stored = json.loads((folder / RESULT).read_text("utf-8"))
        if stored.get("data") != task.identity():
            raise BadInput(
                f"{folder}: is a result of other data than {task.test.parent} holds; choose another --output"
            )


def _run(exported: Exported, task: Task, method: Method, folder: Path, config: TrainingConfig, ranks: Ranks) -> None:
    make_deterministic(config.seed)
    train, validation = task.read_training()
    if validation is None:
        train, validation = split_validation(train, config.validation_share, config.seed)
    title = f"{task.name} {method}"
    with Progress(title, None, "step", quiet=not ranks.is_main) as bar:

        def on_step(step: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(step - bar.n)

        trained = train_method(
            exported, method, train, validation, config, task.metric, ranks=ranks, on_step=on_step
        )  # fmt: skip
    test = task.read_test(train.classes)
    probabilities = trained.predict(test.sequences)
    if not ranks.is_main:
        return
    record = result_record(task, method, test.labels, probabilities, trained, config)
    record |= {"train_sequences": len(train), "validation_sequences": len(validation), "classes": train.classes}
    record["data"] = task.identity()
    with new_folder(folder) as partial:
        write_predictions(partial / PREDICTIONS, test.labels, probabilities)
        write_json(partial / RESULT, record)
        if trained.network is not None:
            save_network(exported, trained.network, train.classes, partial / "model")


def result_record(
    task: Task,
    method: Method,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    trained: Trained,
    config: TrainingConfig,
) -> dict[str, Any]:
    """The content of result.json for one trained classifier; undefined scores are null."""
    scores = all_scores(labels, probabilities)
    interval = bootstrap_interval(labels, [probabilities], task.metric, resamples=config.bootstrap)
    return {
        "task": task.name,
        "method": method,
        "metric": task.metric,
        "scores": {name: value if np.isfinite(value) else None for name, value in scores.items()},
        "interval": interval,
        "validation": trained.validation,
        "test_sequences": len(labels),
        "training": trained.details,
        "options": config.model_dump(mode="json"),
    }


def read_row(folder: Path) -> Row:
    """The table row of a finished method."""
    record = json.loads((folder / RESULT).read_text("utf-8"))
    scores = {name: [float("nan") if value is None else value] for name, value in record["scores"].items()}
    training = record["training"]
    if "epoch" in training:
        options = record["options"]
        setting = f"lr {options['learning_rate']:g}, batch {options['batch_size']}, epoch {training['epoch']}"
        setting += ", diverged" if "diverged" in training else ""
    else:
        setting = f"C {training['inverse_penalty']:g}"
    low, high = record["interval"]
    return Row(
        record["task"], record["method"], record["metric"], scores, (low, high), record["test_sequences"], setting
    )  # fmt: skip


def write_predictions(path: Path, labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    """Write the columns label and probability_0, probability_1, ..., in the order of the test file."""
    columns: dict[str, Any] = {"label": labels}
    columns |= {f"probability_{number}": probabilities[:, number] for number in range(probabilities.shape[1])}
    pq.write_table(pa.table(columns), path)

"""Run one cell of an evaluation, here or as a Ray task; every file that it writes is complete or absent."""

from functools import lru_cache
from pathlib import Path

import torch

from dnachunker.downstream.exported import Exported, make_deterministic, open_exported
from dnachunker.downstream.tasks.task_folders import Task
from dnachunker.foundations.atomic_files import new_file, write_json

from .finetune import result_record, write_predictions
from .methods import train_method
from .protocol import Cell, fold_rows


def run_cell(cell: Cell) -> Path:
    """Train, score and write `cell.result`; return its path. Running a cell again writes the same file.

    Raises:
        BadInput: the task's files cannot be used.
    """
    if cell.threads:
        torch.set_num_threads(cell.threads)
    exported = _open(cell.model)
    data = cell.read_training()
    rows, held = fold_rows(data.labels, cell.folds, cell.fold)
    make_deterministic(cell.config.seed)
    trained = train_method(exported, cell.method, data.take(rows), data.take(held), cell.config, cell.metric)
    if cell.test is None:
        write_json(cell.result, {"validation": trained.validation, "training": trained.details})
        return cell.result
    task = Task(cell.task, cell.train, cell.validation, cell.test, cell.metric)
    test = task.read_test(data.classes)
    probabilities = trained.predict(test.sequences)
    with new_file(cell.predictions) as partial:
        write_predictions(partial, test.labels, probabilities)
    # last, because a cell with a result counts as finished
    write_json(cell.result, result_record(task, cell.method, test.labels, probabilities, trained, cell.config))
    return cell.result


@lru_cache(maxsize=1)
def _open(model: Path) -> Exported:
    return open_exported(model)

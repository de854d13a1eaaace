"""An evaluation in MLflow: one run for all of it, and a nested run for each task and method.

Where the same store has the pretraining run of the model, the evaluation has a link to it, and it
gets the scores as metrics, so that a table of pretraining runs can be sorted by them.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from dnachunker.foundations.atomic_files import write_json
from dnachunker.foundations.mlflow_client import (
    NOTE_TAG,
    PARENT_TAG,
    connect,
    error_line,
    experiment_id,
    is_active,
    legal_name,
    log_batch,
    run_page,
)

from .leaderboard import Row

_STORED = "mlflow.json"  # the run these results are in, so that a repeated command adds no second one

_COLUMNS = ("params.`task`", "params.`method`", "params.`metric`", "params.`setting`", "metrics.`test/mcc`")


def log_evaluation(
    output: Path, uri: str, name: str, model: Path, protocol: Mapping[str, Any], rows: Sequence[Row],
    tables: Sequence[Path],
) -> None:  # fmt: skip
    """Send finished results. When the server does not answer, a line on stderr says so, and the results stay on disk.

    Args:
        uri: tracking URI.
        model: the exported folder.
        tables: files to keep; a Markdown file among them is the description of the run.
    """
    stored = output / _STORED
    sent = [row.__dict__ | {"interval": list(row.interval)} for row in rows]
    sent = json.loads(json.dumps(sent).replace("NaN", "null"))
    if stored.is_file() and json.loads(stored.read_text("utf-8")).get("rows") == sent:
        return
    try:
        parent = _send(output, uri, name, model, protocol, rows, tables)
    except Exception as error:  # the results are on disk; a server must not cost them
        print(f"tracking: MLflow fails ({error_line(error)}); run this again to send the results", file=sys.stderr)
        return
    write_json(stored, {"run_id": parent, "rows": sent})


def _send(
    output: Path, uri: str, name: str, model: Path, protocol: Mapping[str, Any], rows: Sequence[Row],
    tables: Sequence[Path],
) -> str:  # fmt: skip
    """Returns the id of the run that holds all others."""
    client = connect(uri)
    experiment = experiment_id(client, "dnachunker-evaluate", uri, _COLUMNS)
    note = next((path.read_text("utf-8") for path in tables if path.suffix == ".md"), "")
    tags = {"mlflow.source.name": "dnachunker evaluate"}
    pretraining = _pretraining_run(client, model)
    if pretraining:
        note = f"Model of the pretraining run [{pretraining.info.run_name}]({run_page(pretraining.info)}).\n\n{note}"
        tags["pretraining_run"] = pretraining.info.run_id
    tags[NOTE_TAG] = note
    parent = str(client.create_run(experiment, run_name=f"{name}: {output.name}").info.run_id)
    log_batch(client, parent, parameters=protocol, tags=tags)
    for path in tables:
        client.log_artifact(parent, str(path))
    for row in rows:
        run = client.create_run(experiment, run_name=f"{row.task} {row.method}", tags={PARENT_TAG: parent}).info
        facts = {"task": row.task, "method": row.method, "setting": row.setting, "metric": row.metric}
        points = [
            (legal_name("test", metric), value, run.start_time, seed)
            for metric, values in row.scores.items()
            for seed, value in enumerate(values)
            if not math.isnan(value)
        ]
        ends = zip(("interval_low", "interval_high"), row.interval, strict=True)
        points += [(legal_name("test", f"{row.metric}_{end}"), value, run.start_time, 0) for end, value in ends]
        log_batch(client, run.run_id, metrics=points, parameters=facts)
        client.set_terminated(run.run_id)
    client.set_terminated(parent)
    if pretraining:
        now, step = int(time.time() * 1000), _exported(model)["step"]
        means = [
            (legal_name("downstream", name, f"{row.task} {row.method} {row.metric}"), fmean(scores), now, step)
            for row in rows
            if not any(map(math.isnan, scores := row.scores[row.metric]))
        ]
        log_batch(client, pretraining.info.run_id, metrics=means)
    return parent


def _pretraining_run(client: Any, model: Path) -> Any:
    """MLflow's run in which the model was pretrained; None where this store does not have it."""
    run_id = _exported(model).get("mlflow_run")
    return client.get_run(run_id) if run_id and is_active(client, run_id) else None


def _exported(model: Path) -> dict[str, Any]:
    """What `dnachunker export` noted beside the weights; {} for a folder that it did not write."""
    path = model / "export.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}

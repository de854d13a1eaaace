"""An evaluation in MLflow: one run, and nested in it one for each task and method."""

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnachunker.downstream.output_folder import write_json

from .leaderboard import Row

_STORED = "mlflow.json"  # the run these results are in, so that a repeated command adds no second one


def log_evaluation(
    output: Path, uri: str, name: str, protocol: Mapping[str, Any], rows: Sequence[Row], tables: Sequence[Path]
) -> None:
    """Send finished results; a server that does not answer costs a line on stderr, not the results.

    Args:
        uri: tracking URI; `sqlite:///...` keeps artifacts in `output`.
    """
    stored = output / _STORED
    sent = [row.__dict__ | {"interval": list(row.interval)} for row in rows]
    sent = json.loads(json.dumps(sent).replace("NaN", "null"))
    if stored.is_file() and json.loads(stored.read_text("utf-8")).get("rows") == sent:
        return
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("dnachunker-evaluate")
        place = (output / "mlartifacts").absolute().as_uri() if uri.startswith("sqlite:") else None
        number = experiment.experiment_id if experiment else client.create_experiment("dnachunker-evaluate", place)
        parent = client.create_run(number, run_name=f"{name}: {output.name}").info.run_id
        client.log_batch(parent, params=[Param(key, str(value)[:6000]) for key, value in protocol.items()])
        for path in tables:
            client.log_artifact(parent, str(path))
        for row in rows:
            tags = {"mlflow.parentRunId": parent}
            run = client.create_run(number, run_name=f"{row.task} {row.method}", tags=tags).info
            facts = {"task": row.task, "method": row.method, "setting": row.setting, "metric": row.metric}
            points = [
                Metric(f"test/{metric}", value, run.start_time, seed)
                for metric, values in row.scores.items()
                for seed, value in enumerate(values)
                if not math.isnan(value)
            ]
            ends = zip(("interval_low", "interval_high"), row.interval, strict=True)
            points += [Metric(f"test/{row.metric}_{end}", value, run.start_time, 0) for end, value in ends]
            client.log_batch(run.run_id, metrics=points, params=[Param(*item) for item in facts.items()])
            client.set_terminated(run.run_id)
        client.set_terminated(parent)
    except Exception as error:  # the results are on disk; tracking must not take them along
        line = re.sub(r"(?<=://)[^/@\s]+@", "***@", f"{type(error).__name__}: {error}")[:300]
        print(f"tracking: MLflow fails ({' '.join(line.split())}); run this again to send the results", file=sys.stderr)
        return
    write_json(stored, {"run_id": parent, "rows": sent})

"""An evaluation and the pretraining run of its model name each other in MLflow."""

import json
from pathlib import Path

import pytest

from dnachunker.downstream.classification.leaderboard import Row
from dnachunker.downstream.classification.mlflow_runs import log_evaluation

ROWS = [
    Row("H3", method, "mcc", {"mcc": scores, "f1": [0.5, 0.5]}, (0.1, 0.9), 30, "lr 1e-3")
    for method, scores in (("full", [0.5, 0.7]), ("probe", [0.25, 0.35]))
]


@pytest.mark.parametrize("known", [True, False], ids=["in-this-store", "in-another-store"])
def test_the_evaluation_links_to_the_pretraining_run_which_gets_its_scores(tmp_path: Path, known: bool) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    pretraining = client.create_run(client.create_experiment("pretraining", str(tmp_path)), run_name="tiny").info
    model, output = tmp_path / "export", tmp_path / "out"
    for folder in (model, output):
        folder.mkdir()
    run_id = pretraining.run_id if known else "0" * 32
    (model / "export.json").write_text(json.dumps({"step": 60, "mlflow_run": run_id}))
    (output / "table.md").write_text("the table")
    for _ in range(2):  # the second call finds the results there
        log_evaluation(output, uri, "suite", model, {"folds": 5}, ROWS, [output / "table.md"])
    sent = client.get_run(json.loads((output / "mlflow.json").read_text())["run_id"])
    scores = client.get_run(pretraining.run_id).data.metrics
    note = sent.data.tags["mlflow.note.content"]
    assert note.endswith("the table")
    if known:
        assert sent.data.tags["pretraining_run"] == pretraining.run_id
        assert (
            f"[tiny](#/experiments/{pretraining.experiment_id}/runs/{pretraining.run_id}?workflowType=machine_learning)"
            in note
        )
        assert scores == pytest.approx({"downstream/suite/H3 full mcc": 0.6, "downstream/suite/H3 probe mcc": 0.3})
        (point,) = client.get_metric_history(pretraining.run_id, "downstream/suite/H3 full mcc")
        assert point.step == 60
    else:
        assert "pretraining_run" not in sent.data.tags
        assert scores == {}

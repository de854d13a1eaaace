"""Promises of probes in training: the run's losses do not know of them, and their death does not stop it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dnachunker.pretrain.records.event_log import read_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SETTINGS = (
    "steps=6", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4", "data.seq_len=256",
    "evaluation.windows=6", "evaluation.every=3", "checkpoint.every=6",
)  # fmt: skip
PROBES = "evaluation.probes=[{task: sample:coding, arguments: [bootstrap=50, epochs=1]}]"


def command(corpus: Path, run: Path, *overrides: str) -> list[str]:
    words = [sys.executable, "-m", "dnachunker", "pretrain", "--config", "tiny", "--corpus", str(corpus)]
    return [*words, "--run", str(run), *SETTINGS, *overrides]


def of_kind(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == kind]


def test_losses_are_the_same_to_the_bit_and_every_record_has_the_scores(sample_corpus: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    plain, probed = tmp_path / "plain", tmp_path / "probed"
    for run, overrides in ((plain, ["tracking.enabled=false"]), (probed, [PROBES, "evaluation.probe_wait=1200"])):
        done = subprocess.run(command(sample_corpus, run, *overrides), capture_output=True, text=True, timeout=1400)
        assert done.returncode == 0, done.stderr
    told = [[(e["loss"], e["grad_norm"]) for e in of_kind(run, "step")] for run in (plain, probed)]
    assert told[0] == told[1]
    held_out = [[e["masked_loss"] for e in of_kind(run, "evaluation")] for run in (plain, probed)]
    assert held_out[0] == held_out[1]

    events = of_kind(probed, "probes")
    assert events[-1]["steps_done"] == 6
    assert not any(event["failed"] for event in events)
    score = events[-1]["probes"]["coding"]["mcc"]
    assert -1 <= score <= 1
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    history = client.get_metric_history(json.loads((probed / "mlflow.json").read_text())["run_id"], "probes/coding/mcc")
    assert {point.step: point.value for point in history}[6] == score
    assert "Probes of checkpoints" in (probed / "report.html").read_text()
    assert {path.suffix for path in (probed / "probes").iterdir()} == {".json", ".txt"}, "exports are removed"


def test_a_killed_probe_neither_stops_nor_delays_training(sample_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = command(sample_corpus, run, PROBES, "tracking.enabled=false")
    training = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (probers := following(run)):
        assert training.poll() is None, training.communicate()[0]
        time.sleep(0.05)
    probers[0].send_signal(signal.SIGKILL)
    printed, _ = training.communicate(timeout=600)
    assert training.returncode == 0, printed
    assert "probes: their process ended with code -9" in printed
    assert [event["steps_done"] for event in of_kind(run, "step")] == list(range(1, 7))


def following(run: Path) -> list[psutil.Process]:
    """The process that probes this run's checkpoints."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[-3:] == ["probe", str(run), "--follow"]:
            found.append(process)
    return found

"""A run with `optimizer.ema` trains as one without, is judged by its average, and exports what it was judged by."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dnachunker.pretrain.planning.memory import checkpoint_bytes
from dnachunker.pretrain.records.event_log import read_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FAST = [
    "steps=8", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4", "data.seq_len=256",
    "evaluation.windows=6", "evaluation.every=4", "evaluation.diagnostics_every=100", "checkpoint.every=4",
    "tracking.enabled=false", "schedule.kind=constant", "schedule.warmup=0",
]  # fmt: skip


def run_command(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dnachunker", *map(str, arguments)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def values(run: Path, kind: str, key: str) -> dict[int, Any]:
    return {event["steps_done"]: event[key] for event in read_events(run) if event["event"] == kind}


def test_the_average_is_evaluated_exported_and_resumed_and_training_stays_the_same(
    sample_corpus: Path, tmp_path: Path
) -> None:
    plain, averaged, child = tmp_path / "plain", tmp_path / "averaged", tmp_path / "child"
    start = ("pretrain", "--config", "tiny", "--corpus", sample_corpus, *FAST)
    run_command(*start, "--run", plain)
    run_command(*start, "--run", averaged, "optimizer.ema=0.25")
    assert values(averaged, "step", "loss") == values(plain, "step", "loss")
    sizes = [
        sum(path.stat().st_size for path in run.glob("checkpoints/step-00000008/**/*")) for run in (plain, averaged)
    ]
    parameters = values(plain, "start", "parameters")[0]
    more = checkpoint_bytes(parameters, average=True) - checkpoint_bytes(parameters)
    assert sizes[1] - sizes[0] == pytest.approx(more, rel=0.2)
    judged = values(averaged, "evaluation", "masked_loss")
    assert judged.keys() == {4, 8}
    assert all(judged[step] != loss for step, loss in values(plain, "evaluation", "masked_loss").items())

    (newest,) = (averaged / "checkpoints").glob("step-00000008")
    for path in sorted(newest.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    newest.rmdir()
    run_command(*start, "--run", averaged, "optimizer.ema=0.25", "engine.zero_stage=2")
    assert values(averaged, "step", "loss") == pytest.approx(values(plain, "step", "loss"), abs=1e-6)
    assert values(averaged, "evaluation", "masked_loss")[8] == pytest.approx(judged[8], abs=1e-6)

    run_command("export", averaged, tmp_path / "export")  # it compares the logits with those of the average
    run_command(*start, "--run", child, f"init.model={tmp_path / 'export'}", "steps=1")
    assert values(child, "evaluation", "masked_loss")[0] == values(averaged, "evaluation", "masked_loss")[8]

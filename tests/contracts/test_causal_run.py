"""The whole path of a causal model: trained, evaluated beside its baselines, reported, exported, generating."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnachunker.pretrain.records.event_log import read_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def test_from_corpus_to_generated_sequence(sample_corpus: Path, tmp_path: Path, dnachunker: Callable[..., Any]) -> None:
    def must(*arguments: object) -> None:
        done = dnachunker(*arguments)
        assert done.returncode == 0, done.stderr

    run, exported = tmp_path / "run", tmp_path / "exported"
    must(
        "pretrain", "--config", "tiny", "--corpus", sample_corpus, "--run", run, "--processes", 2, "steps=8",
        "model.causal=true", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4",
        "data.seq_len=256", "evaluation.windows=6", "evaluation.every=4", "tracking.enabled=false",
    )  # fmt: skip
    events = read_events(run)
    steps = [event for event in events if event["event"] == "step"]
    assert all(math.isfinite(event["next_base_loss"]) for event in steps)
    assert all(max(event["forced_share"].values()) == 0 for event in steps)  # no masks that could force a boundary
    told = [event for event in events if event["event"] == "evaluation"]
    assert [event["steps_done"] for event in told] == [4, 8]
    last = told[-1]
    assert 1.0 < last["next_base_loss"] < 3.0
    assert 1.2 < last["order5_loss"] < last["order0_loss"] < math.log(4) + 0.01
    assert last["compression"] == last["pretraining_compression"]
    shown = next(event for event in events if event["event"] == "segmentation")
    assert len(shown["sequence"]) == 256
    assert all(0 <= cut < 256 for cut in shown["stage0"])
    must("report", run)
    page = (run / "report.html").read_text()
    assert "held-out next-base loss" in page
    assert "mask leakage" not in page
    must("export", run, exported)
    assert "AutoModelForCausalLM" in (exported / "README.md").read_text()
    must("generate", "--model", exported, "--count", 2, "--length", 50, "--output", tmp_path / "new.fa")
    assert (tmp_path / "new.fa").read_text().count(">") == 2

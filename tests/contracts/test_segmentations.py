"""Runs with a fixed segmentation, as real processes: what they record of each species, exact resume, export."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.pretrain.records.event_log import read_events

pytestmark = pytest.mark.timeout(3000)  # many runs; on a busy machine each start takes a minute

STEPS = 6
FAST = [
    f"steps={STEPS}", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4",
    "data.seq_len=256", "evaluation.windows=24", "evaluation.every=100", "checkpoint.every=100",
    "tracking.enabled=false",
]  # fmt: skip


def dnachunker(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dnachunker", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)


def of_kind(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == kind]


@pytest.fixture(scope="module")
def two_species(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that trains on H. pylori alone, and holds out a part of H. pylori and all mitochondria."""
    folder = tmp_path_factory.mktemp("species")
    done = dnachunker(
        "shard", "--config", "sample", "--output", folder / "corpus", "workers=0",
        "sources.mitochondria.split={kind: contigs, splits: {valid: ['*']}}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "corpus"


def test_every_species_is_scored_and_one_held_out_whole_is_never_trained_on(two_species: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [*FAST, "tokenization.kind=kmer", "tokenization.k=4", "launch.processes=1"]
    command = ["pretrain", "--config", "tiny", "--corpus", two_species, "--run", run, *settings]
    done = dnachunker(*command, PYTHONPROFILEIMPORTTIME="1")  # Python reports each import on stderr
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "deepspeed" in imported
    assert not imported & {"mlflow.tracking", "torch._inductor.compile_fx"}, "seconds at the start, for nothing"
    found = of_kind(run, "evaluation")[-1]
    assert set(found["species"]) == {"Helicobacter pylori", "vertebrate mitochondria"}
    whole = 0.0
    for values in found["species"].values():
        # windows of 256 bases without pads: a chunk every 4 bases, and stage 1 keeps all of these chunks
        assert values["compression"] == {"stage0": 0.25, "stage1": 1.0}
        assert values["pretraining_compression"]["stage0"] > 0.35
        assert 1.0 < values["masked_loss"] < 4.0
        assert values["order3_loss"] > 1.0
        whole += values["masked_loss"] * values["masked"]
    assert found["masked_loss"] == pytest.approx(whole / found["masked"])
    steps = of_kind(run, "step")
    assert all(step["loss"] == step["mlm_loss"] for step in steps), "nothing learns from a ratio that is given"
    assert of_kind(run, "diagnostics")[-1]["warnings"] == []
    assert set(Corpus.open(str(two_species)).blocks("train").species) == {"Helicobacter pylori"}


@pytest.mark.slow
def test_byte_pairs_survive_interruption_zero_3_and_export(two_species: Path, tmp_path: Path) -> None:
    settings = [*FAST, "tokenization.kind=bpe", "tokenization.vocabulary=128", "tokenization.sample_bases=100000",
                "engine.zero_stage=3", "launch.processes=2"]  # fmt: skip
    straight, broken = tmp_path / "straight", tmp_path / "broken"

    def command(run: Path, *more: str) -> list[str]:
        return ["pretrain", "--config", "tiny", "--corpus", str(two_species), "--run", str(run), *settings, *more]

    done = dnachunker(*command(straight))
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "dnachunker", *command(broken)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not of_kind(broken, "step"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=400) == 3
    refused = dnachunker(*command(broken, "tokenization.vocabulary=64"))
    assert refused.returncode == 2
    assert "tokenization.vocabulary was 128 and is now 64" in refused.stderr
    done = dnachunker(*command(broken))
    assert done.returncode == 0, done.stderr
    losses = [[step["loss"] for step in of_kind(run, "step")] for run in (straight, broken)]
    assert len(losses[0]) == STEPS
    assert losses[1] == losses[0]
    done = dnachunker("export", broken, tmp_path / "export")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "export" / "export.json").read_text())["max_abs_diff"] <= 1e-5
    described = json.loads((tmp_path / "export" / "config.json").read_text())["segmentation"]
    assert len({line.replace(" ", "") for line in described["merges"].splitlines()}) == 128 - 4

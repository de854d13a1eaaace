"""`dnachunker plan` prints the sizes of the paper's model."""

from pathlib import Path

import pytest

from dnachunker.cli import main


def test_plan_prints_the_published_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "dnachunker-172m"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = {line[:24].strip(): line[24:].strip() for line in lines}
    assert [counts[f"{side} {stage}"] for side in ("encoder", "decoder") for stage in range(2)] == ["5,607,680"] * 4
    assert counts["trunk"] == "147,495,040"
    assert counts["total"] == "171,585,280"


def test_plan_of_the_paper_run_on_four_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "dnachunker-172m", "--gpus", "4", "--utilisation", "0.4"]) == 0
    said = capsys.readouterr().out
    assert "52.43 G bases in 50,000 steps, 29.70 EFLOP" in said
    assert "memory of each of 4 GPUs, bf16" in said
    machines = [line.split() for line in said.splitlines() if line.endswith("%") and len(line.split()) == 6]
    assert [int(row[1]) for row in machines[:5]] == [8, 16, 32, 64, 128], "what 128 windows divide by"
    hours = [float(row[2]) for row in machines[:5]]
    assert hours == sorted(hours, reverse=True)
    weak = [row for row in machines if row[1].endswith("%")]
    assert [row[0] for row in weak][-1] == "4,096"


def test_plan_counts_the_epochs_of_a_corpus(sample_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "tiny", "--gpus", "1", "--corpus", str(sample_corpus)]) == 0
    assert "in train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hardware", "abacus"], "known are a100"),
        (["--gpus", "3"], "3 ranks do not divide"),
        (["--gpus", "0"], "must be at least 1"),
        (["--utilisation", "0"], "--utilisation 0.0"),
    ],
)
def test_plan_refuses_what_makes_no_plan(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "tiny", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_plan_follows_the_overrides_and_refuses_a_typo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "tiny", "model.trunk_layers=8", "engine.activation_checkpointing=true"]) == 0
    assert main(["plan", "--config", "tiny", "model.mixr=conv"]) == 2
    assert "mixer" in capsys.readouterr().err

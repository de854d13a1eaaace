"""`dnachunker plan` prints the sizes of the paper's model."""

import pytest

from dnachunker import main


def test_plan_prints_the_published_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "dnachunker-172m"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = {line[:24].strip(): line[24:].strip() for line in lines}
    assert [counts[f"{side} {stage}"] for side in ("encoder", "decoder") for stage in range(2)] == ["5,607,680"] * 4
    assert counts["trunk"] == "147,495,040"
    assert counts["total"] == "171,585,280"


def test_plan_follows_the_overrides_and_refuses_a_typo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "tiny", "model.trunk_layers=8", "engine.activation_checkpointing=true"]) == 0
    assert main(["plan", "--config", "tiny", "model.mixr=conv"]) == 2
    assert "mixer" in capsys.readouterr().err

"""`dnachunker plan` prints the sizes of the paper's model."""

import re
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
    machines = [line.split() for line in said.splitlines() if line.endswith("%") and len(line.split()) in (6, 7)]
    assert [int(row[1]) for row in machines[:5]] == [8, 16, 32, 64, 128], "what 128 windows divide by"
    hours = [float(row[2]) for row in machines[:5]]
    assert hours == sorted(hours, reverse=True)
    weak = [row for row in machines if row[1].endswith("%")]
    assert [row[0] for row in weak][-1] == "4,096"


def test_plan_says_how_much_notice_a_stop_needs(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {}
    for storage in ("5e9", "5e7"):
        assert main(["plan", "--config", "dnachunker-172m", "--storage", storage]) == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("a stop on a signal"))
        assert "cluster.slurm.signal_seconds" in line
        seconds[storage] = float(line[24:].split()[0].replace(",", ""))
    written = 12 * 171_585_280  # bytes of a checkpoint
    assert seconds["5e7"] - seconds["5e9"] == pytest.approx(2 * written * (1 / 5e7 - 1 / 5e9), rel=0.1), "two saves"
    assert seconds["5e9"] > 2 * written / 5e9


def test_plan_counts_the_copy_of_an_asynchronous_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "dnachunker-172m", "--gpus", "4"]) == 0
    copy = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("its copy"))
    count = 171_585_280 / 1e9
    assert copy[24:].split()[0] == f"{count * (4 + 8 / 4):.2f}", "all weights, and a quarter of the moments"
    assert f"{count * 8 / 4:.2f} of the others'" in copy


def test_plan_counts_the_time_that_layers_in_blocks_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    def seconds(block: int, length: int) -> float:
        sizes = [f"data.seq_len={length}", "data.global_batch=8", "data.streams=8", f"engine.layer_block={block}"]
        assert main(["plan", "--config", "dnachunker-172m", "--gpus", "8", *sizes]) == 0
        found = re.search(r"([\d.]+) s a step", capsys.readouterr().out)
        assert found
        return float(found[1])

    assert 1.03 < seconds(65_536, 1 << 17) / seconds(0, 1 << 17) < 1.2
    assert seconds(65_536, 65_536) == seconds(0, 65_536), "no window is longer than a block"


def weak_scaling(said: str) -> dict[str, dict[str, float]]:
    """The table of weak scaling: by number of GPUs, the share of each cause."""
    lines = said[said.index("weak scaling") :].splitlines()
    names = lines[1].split()[1:]
    rows = [line.split() for line in lines[2 : lines.index("")]]
    return {row[0]: {n: float(cell.rstrip("%")) / 100 for n, cell in zip(names, row[1:], strict=True)} for row in rows}


def test_the_paper_run_scales_to_512_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", "--config", "dnachunker-172m", "--gpus", "8", "--utilisation", "0.4"]
    assert main(plan) == 0
    said = capsys.readouterr().out
    found = re.search(r"engine.micro_batch=auto: ([\d,]+) bases in a pass of a GPU", said)
    assert found
    assert int(found[1].replace(",", "")) >= 65_536
    shares = weak_scaling(said)["512"]
    assert list(shares) == ["compute", "host", "stragglers", "collectives", "checkpoints", "failures"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    assert shares["compute"] >= 0.85
    assert main([*plan, "engine.zero_stage=2", "engine.micro_batch=1"]) == 0
    small = weak_scaling(capsys.readouterr().out)["512"]
    assert small["compute"] < 0.7, "what the preset avoids"
    for cause in ("host", "collectives"):
        assert small[cause] > 2 * shares[cause]


def test_plan_of_windows_that_gpus_share(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", "--config", "dnachunker-172m", "engine.activation_checkpointing=true", "engine.layer_block=0"]
    assert main([*plan, "data.seq_len=1048576", "data.global_batch=8", "engine.context_parallel=4"]) == 0
    said = capsys.readouterr().out
    rows = [line.replace("*", " ").split() for line in said.splitlines() if re.match(r" +[\d,]+ .*\d\.\d\d$", line)]
    by_length = {row[0]: [float(cell) for cell in row[1:]] for row in rows}
    memory, sent = by_length["1,048,576"][::2], by_length["1,048,576"][1::2]
    assert memory[0] > 1.5 * memory[1]
    states = memory[1] - 2 * (memory[1] - memory[2])  # what does not shrink with the stretch
    assert memory[3] == pytest.approx(states + (memory[1] - states) / 4, rel=0.05)
    assert sent[0] == 0
    assert sent[3] == pytest.approx(sent[1] * 7 / 4, rel=0.01), "each GPU sends its part to all others"
    assert sent[1] == pytest.approx(2 * by_length["524,288"][3], rel=0.01)
    assert "1,048,576 bases in a pass of 4 GPUs (1 x 1,048,576)" in said
    network = next(line for line in said.splitlines() if line.startswith("network"))
    assert "more to the GPUs that share its windows" in network
    assert main([*plan, "engine.context_parallel=3"]) == 2
    assert "engine.context_parallel=3 does not divide 8 ranks" in capsys.readouterr().err


def test_plan_of_a_megabase_in_one_window_of_one_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    window = ["data.seq_len=1048576", "data.global_batch=1", "data.streams=1", "engine.precision=bf16"]
    plan = ["plan", "--config", "dnachunker-172m", "--gpus", "1", "engine.activation_checkpointing=true", *window]
    needed = {}
    for block in (65_536, 16_384, 0):
        assert main([*plan, f"engine.layer_block={block}"]) == 0
        found = re.search(r"1 passes a step, ([\d.]+) GiB", capsys.readouterr().out)
        assert found
        needed[block] = float(found[1])
    assert needed[16_384] <= needed[65_536] < 60
    assert needed[0] > 100


def test_plan_of_autocast_reduces_gradients_in_fp32(capsys: pytest.CaptureFixture[str]) -> None:
    sent = {}
    for precision in ("fp32", "bf16", "bf16-autocast"):
        assert main(["plan", "--config", "dnachunker-172m", f"engine.precision={precision}"]) == 0
        said = capsys.readouterr().out
        sent[precision] = next(line.split()[1] for line in said.splitlines() if line.startswith("network"))
    assert sent["bf16-autocast"] == sent["fp32"]
    assert float(sent["bf16"]) == pytest.approx(float(sent["fp32"]) / 2, abs=0.01)


def test_plan_says_where_no_micro_batch_fits(capsys: pytest.CaptureFixture[str]) -> None:
    long = ["data.seq_len=4194304", "data.global_batch=8", "data.streams=8", "engine.activation_checkpointing=true"]
    assert main(["plan", "--config", "dnachunker-172m", "--hardware", "l40s", *long]) == 0
    assert re.search(r"auto: 4,194,304 bases .* [\d.]+ GiB, which does not fit", capsys.readouterr().out)


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
        (["--link-share", "2"], "--link-share 2.0: must lie between 0 and 1"),
    ],
)
def test_plan_refuses_what_makes_no_plan(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "tiny", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_plan_follows_the_overrides_and_refuses_a_typo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "tiny", "model.trunk_layers=8", "engine.activation_checkpointing=true"]) == 0
    assert main(["plan", "--config", "tiny", "model.mixr=conv"]) == 2
    assert "mixer" in capsys.readouterr().err

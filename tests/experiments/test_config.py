"""Sweep configs: every mistake gives one line, names are safe for paths and shells, and budgets are equal."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_sweep import CONFIG

from dnachunker.cli import main
from dnachunker.downstream.generation.generate import spectrum_folder
from dnachunker.experiments.budget import expected_flops_per_base, steps_of
from dnachunker.experiments.cells import Cell, expand, rows_of
from dnachunker.experiments.config import BudgetSettings, SweepConfig
from dnachunker.foundations.presets import PRESETS
from dnachunker.foundations.typed_config import load_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.network import expected_chunks_per_base

Sweep = Callable[..., Any]
PACKAGED = sorted(path.stem for path in (PRESETS / "experiments").glob("*.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rows:", "rowz:", "nearest valid key: 'rows'"),
        ("model.mixer=conv", "model.mixre=conv", "row 'conv'"),
        ("model.mixer=conv", "model.mixer=rnn", "row 'conv'"),
        ("model.mixer=conv", "model.width=7", "row 'conv'"),
        ("model.mixer=conv", "'data.curriculum=[{from_step: 2, seq_len: 512, global_batch: 8}]'", "data.curriculum"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds"),
        ("seeds: [0, 1]", "seeds: []", "seeds"),
        ("scale: tiny", "scale: huge", "scale 'huge' is none of scales: tiny"),
        ("bases: 65536", "bases: 65536, flops: 1e12", "either `bases` or `flops`"),
        ("bases: 65536", "bases: 0", "bases"),
        ("config: bacterium", "path: nowhere", "nowhere"),
        ("config: bacterium", "config: nothing", "nothing"),
        ("evaluations: 2", "evaluations: 2, only: [absent]", "'absent' is none of the rows"),
        ("preset: tiny", "preset: nothing", "nothing"),
        ("tasks: [promoters]", "tasks: [absent]", "absent"),
        ("  conv: [", "  Plain: [", "differ in case only"),
        ("rows:", "grid: {model.mixer: [conv]}\nrows:", "either `rows` or `grid`"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(
    old: str, new: str, said: str, config: Path, sweep: Sweep, tmp_path: Path
) -> None:
    assert old in CONFIG
    config.write_text(CONFIG.replace(old, new).replace("evaluations: 2, only", "evaluations: 2\n    only"))
    done = sweep("--output", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["../escape", "a/b", "..", "a b", "$(touch x)", "a;b", "-rf", "", "a\nb", "é", "a" * 81, "a."]
)
def test_no_row_name_is_a_path_or_a_command(name: str, config: Path, sweep: Sweep, tmp_path: Path) -> None:
    config.write_text(CONFIG.replace("  conv:", f"  {json.dumps(name)}:"))
    before = sorted(tmp_path.rglob("*"))
    done = sweep("--output", tmp_path / "out")
    assert done.returncode == 2
    assert "letters, digits" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_shell_metacharacters_in_values_stay_values(config: Path, sweep: Sweep, tmp_path: Path) -> None:
    evil = tmp_path / "a $(touch pwned); b"
    (evil / "promoters").mkdir(parents=True)
    done = sweep("--output", evil / "out", "seeds=[0]", f"probe.folder='{evil}'")
    assert done.returncode == 0, done.stderr
    assert not list(Path.cwd().glob("pwned"))
    shown = sweep("--output", evil / "out", "--dry-run", "seeds=[0]").stdout
    assert f"'{evil.absolute() / 'out' / 'cells' / 'plain' / 'seed-0' / 'run'}'" in shown, "quoted for a shell"


def test_a_folder_of_something_else_is_left_alone(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    done = sweep("--output", tmp_path / "mine")
    assert done.returncode == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_dry_run_prints_commands_and_starts_none(sweep: Sweep, tmp_path: Path) -> None:
    done = sweep("--output", tmp_path / "out", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.count(" pretrain --config tiny ") == 4
    assert "model.mixer=conv steps=8 evaluation.every=4 checkpoint.every=4 seed=1" in done.stdout
    assert "PFLOP of pretraining" in done.stdout
    assert not (tmp_path / "out").exists()


def cells_of(name: str, *overrides: str) -> list[Cell]:
    return expand(load_config(SweepConfig, name, overrides, kind="experiments"), Path("out"))


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_sweeps_are_valid_at_every_scale(name: str) -> None:
    for scale in load_config(SweepConfig, name, kind="experiments").scales:
        cells = cells_of(name, f"scale={scale}")
        assert len({cell.folder for cell in cells}) == len(cells) >= 3
        first = {cell.row for cell in cells if cell.seed == cells[0].seed}
        assert [cell.row for cell in cells[: len(first)]] == list(dict.fromkeys(cell.row for cell in cells))


def test_a_grid_is_every_combination() -> None:
    values = load_config(SweepConfig, "compression", kind="experiments").model_dump() | {
        "grid": {"model.mixer": ["conv", "bimamba"], "model.target_ratios": [[0.2, 0.5]], "optimizer.lr": [1e-3]},
        "scales": {"tiny": {"preset": "tiny", "corpus": {"config": "bacterium"}, "budget": {"bases": 1}}},
    }
    assert rows_of(SweepConfig.model_validate(values)) == {
        f"mixer={mixer},target_ratios=0.2-0.5,lr=0.001": (
            f'model.mixer="{mixer}"', "model.target_ratios=[0.2, 0.5]", "optimizer.lr=0.001",
        )
        for mixer in ("conv", "bimamba")
    }  # fmt: skip


def test_budgets_are_equal_in_bases_or_in_flops() -> None:
    by_bases = cells_of("compression")
    assert {cell.config.steps for cell in by_bases} == {72}
    flops = 3e12
    by_flops = cells_of("compression", "scales.tiny.budget={flops: 3e12, bases: null}")
    assert len({cell.config.steps for cell in by_flops}) > 3
    for cell in by_flops:
        run = cell.config
        a_step = expected_flops_per_base(run) * run.data.global_batch * run.data.seq_len
        assert abs(a_step * run.steps - flops) <= a_step / 2
    cheap, dear = (next(c.config for c in by_flops if c.row == row) for row in ("0.2-0.2", "0.7-0.7"))
    assert expected_flops_per_base(cheap) < expected_flops_per_base(dear)
    assert cheap.steps > dear.steps


def expected(run: PretrainConfig) -> tuple[float, ...]:
    return expected_chunks_per_base(run.model, run.tokenization, run.masking)


def test_expected_compression_is_what_a_healthy_model_measures() -> None:
    config = PretrainConfig.model_validate({"run": "", "steps": 1, "data": {"corpus": ""}})
    assert expected(config)[1] == pytest.approx(0.31, abs=0.005)  # docs/model.md
    config = config.model_copy(update={"model": config.model.model_copy(update={"mask_protection": False})})
    assert expected(config) == pytest.approx((0.33, 0.33**2))
    assert steps_of(BudgetSettings(bases=1), config) == 1
    for row, density in (("6-mer", 1 / 6), ("single-base", 1.0)):
        run = next(cell.config for cell in cells_of("ablations") if cell.row == row)
        assert expected(run) == pytest.approx((density + 0.2256 * (1 - density),) * 2)


@pytest.mark.parametrize("stages", [1, 3])
def test_budgets_and_plans_take_any_number_of_stages(stages: int, capsys: pytest.CaptureFixture[str]) -> None:
    lists = [f"model.{name}={[1] * stages}" for name in ("encoder_layers", "decoder_layers")]
    lists.append(f"model.target_ratios={[0.4] * stages}")
    run = load_config(PretrainConfig, "tiny", lists, kind="pretrain", settings={"run": "", "data.corpus": ""})
    assert len(expected(run)) == stages
    assert steps_of(BudgetSettings(flops=1e15), run) > 1
    assert main(["plan", "--config", "tiny", *lists]) == 0
    assert f"at {', '.join(f'{chunks:.2g}' for chunks in expected(run))} chunks a base" in capsys.readouterr().out


def test_a_causal_row_is_charged_for_no_masks() -> None:
    (run,) = {cell.seed: cell.config for cell in cells_of("causal", "seeds=[0]")}.values()
    inner, outer = run.model.target_ratios
    assert expected(run) == pytest.approx((inner, inner * outer))


def test_the_spectrum_is_read_where_generate_leaves_it() -> None:
    spectrum = load_config(SweepConfig, "causal", kind="experiments").analyses["spectrum"]
    sequences = Path(spectrum.command[spectrum.command.index("--output") + 1])
    assert Path("{output}", spectrum.read) == spectrum_folder(sequences) / "table.csv"


def test_options_that_exclude_each_other_are_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--on", "moon"], "local, ray"),
        (["--on", "local:x"], "local, ray"),
        (["--jobs", "0"], "--jobs 0"),
        (["cluster.slurm.time=1:00"], "cluster.slurm.time"),
    ):
        assert main(["sweep", "--config", str(config), "--output", "out", *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["sweep", "--config", str(config)]) == 2
    assert "--output" in capsys.readouterr().err
    assert "out" not in os.listdir()

"""The command as a newcomer meets it: help without waiting, and one line for every mistake."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dnachunker import cli
from dnachunker.foundations.presets import PRESETS, presets

VERBS = ["genomes", "shard", "corpus", "pretrain", "launch", "doctor", "plan", "export", "report", "demo", "sweep"]


def run(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dnachunker", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_teaches_and_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\nfrom dnachunker.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = {'torch', 'ray', 'deepspeed', 'mlflow', 'numpy', 'pydantic', 'pyarrow'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    arguments = [verb, "--help"] if verb else ["--help"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dnachunker" in done.stdout
    if not verb:
        assert all(name in done.stdout for name in VERBS)


def test_without_a_verb_the_overview_is_shown() -> None:
    alone, asked = run(), run("help")
    assert (alone.returncode, asked.returncode) == (0, 0)
    assert alone.stdout == asked.stdout == run("--help").stdout
    assert run("help", "shard").stdout == run("shard", "--help").stdout


def snapshot(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shard", "--config", "absent.yaml", "--output", "out"], "absent.yaml"),
        (["shard", "--config", "missing_file.yaml", "--output", "out"], "nowhere.fa"),
        (["shard", "--config", "not_fasta.yaml", "--output", "out"], "not_fasta.fa"),
        (["shard", "--config", "empty.yaml", "--output", "out"], "empty.fa"),
        (["shard", "--config", "typo.yaml", "--output", "out"], "nearest valid key: 'block_bases'"),
        (["shard", "--config", "sample"], "--output"),
        (["pretrain", "--config", "tiny", "--corpus", "nowhere", "--run", "run"], "nowhere"),
        (
            ["pretrain", "--config", "tiny", "--corpus", "nowhere", "--run", "run", "stpes=3"],
            "nearest valid key: 'steps'",
        ),
        (["pretrain", "seed=1", "--config", "tiny", "--run", "run", "stpes=3"], "nearest valid key: 'steps'"),
        (["pretrain", "seed=1", "--config", "tiny", "--run", "run", "stray"], "unrecognized arguments: stray"),
        (["pretrain", "--config", "tiny", "--run", "run"], "data"),
        (["pretrain", "--config", "broken.yaml", "--run", "run"], "broken.yaml"),
        (["export", "nowhere", "out"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["corpus", "info", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(arguments: list[str], said: str, tmp_path: Path) -> None:
    def config(name: str, fasta: str, extra: str = "") -> None:
        (tmp_path / name).write_text(f"sources: {{x: {{path: {fasta}}}}}\n{extra}")

    config("missing_file.yaml", "nowhere.fa")
    config("not_fasta.yaml", "not_fasta.fa")
    config("empty.yaml", "empty.fa")
    config("typo.yaml", "empty.fa", "blok_bases: 1024\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "not_fasta.fa").write_text("this is a letter to my aunt\n")
    (tmp_path / "empty.fa").write_text("")
    before = snapshot(tmp_path)
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    said_by_us = [line for line in done.stderr.splitlines() if line.startswith("dnachunker: ")]
    assert said_by_us == done.stderr.splitlines()[-1:], "one line, and nothing after it"
    assert said in said_by_us[0]
    assert "Traceback" not in done.stderr
    assert snapshot(tmp_path) == before


def test_the_last_override_wins_wherever_they_stand(tmp_path: Path) -> None:
    done = run("sweep", "name=a", "--config", "mixers", "name=b", "--output", tmp_path, "--print-config", "name=c")
    assert done.returncode == 0, done.stderr
    assert "name: c\n" in done.stdout


def test_an_unknown_verb_exits_with_2() -> None:
    done = run("pretrian")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_corpus_without_the_split_is_refused_before_anything_starts(sample_corpus: Path, tmp_path: Path) -> None:
    done = run(
        "pretrain", "--config", "tiny", "--corpus", sample_corpus, "--run", tmp_path / "run", "evaluation.split=tset"
    )
    assert done.returncode == 2
    assert "no split 'tset'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_demo_does_not_clear_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = run("demo", "--output", tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "thesis.txt").exists()


def test_a_finished_run_says_what_to_type_next(
    sample_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", "--config", "tiny", "--corpus", str(sample_corpus), "--run", str(tmp_path / "a run")]
    for code, said in ((0, True), (3, False)):
        monkeypatch.setattr(cli, "_start_ranks", lambda *_, code=code: code)
        assert cli.main(arguments) == code
        assert (f"dnachunker export '{tmp_path}/a run' 'exported/a run'" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("verb", "kind"),
    [("pretrain", "pretrain"), ("shard", "corpus"), ("launch", "cluster"), ("evaluate", "downstream"),
     ("sweep", "experiments")],
)  # fmt: skip
def test_every_preset_is_named_in_help_and_in_the_readme(
    verb: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    text = capsys.readouterr().out
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    for name in presets(kind):
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), name
        assert f"`{name}`" in readme, name


def test_every_kind_of_preset_belongs_to_a_verb() -> None:
    kinds = {path.name for path in PRESETS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert kinds == {"pretrain", "corpus", "cluster", "downstream", "experiments"}


def test_the_page_about_presets_has_the_sizes_of_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "presets.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == set(presets("pretrain"))
    for name, row in rows.items():
        assert cli.main(["plan", "--config", name, "--gpus", "1"]) == 0
        planned = capsys.readouterr().out
        parameters, context, steps, bases = [cell.strip() for cell in row.split("|")[2:6]]
        assert re.search(rf"^total +{parameters}$", planned, re.MULTILINE), name
        assert f"in windows of {context} bases" in planned
        assert f"in {steps} steps" in planned
        assert f"a step {' ' * 20}{bases} bases".split() == re.search(r"a step .*? bases", planned)[0].split()

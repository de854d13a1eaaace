"""`dnachunker probe`: which checkpoints it measures, with which commands, and what it makes of their failures."""

import json
from pathlib import Path
from typing import Any

import pytest

from dnachunker.cli import main
from dnachunker.experiments import probing
from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.typed_config import load_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.run_folder import store_config

PROBES = (
    "evaluation.probes=[{task: tasks/one}, {vcf: v.vcf, label: 'INFO/CLS=LOF', fasta: g.fa, name: 'BRCA 1'}, "
    "{annotation: genes.gtf.gz, fasta: g.fa, arguments: [--validation, b, --test, a, steps=9]}]"
)
WRITTEN = {
    "finetune": ("one/probe/result.json", {"metric": "mcc", "validation": 0.25}),
    "variants": (
        "results.json",
        {"rows": [{"score": "likelihood", "stratum": "all", "auroc": {"value": 0.5}, "auprc": None}]},
    ),
    "annotate": ("metrics.json", {"probe": [{"validation": 0.75}]}),
}


def config(tmp_path: Path, *overrides: str) -> PretrainConfig:
    settings = {"run": str(tmp_path / "run"), "data.corpus": "corpus"}
    return load_config(PretrainConfig, "tiny", overrides, kind="pretrain", settings=settings)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was called; each call leaves what the real command would write."""
    called: list[tuple[str, ...]] = []

    def pretend(words: tuple[str, ...], _parent: int | None) -> None:
        called.append(words)
        if words[0] == "export":
            Path(words[2]).mkdir()
            return
        name, content = WRITTEN[words[0]]
        path = Path(words[words.index("--output") + 1], name)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))

    monkeypatch.setattr(probing, "_run", pretend)
    monkeypatch.setattr(
        probing, "complete_checkpoints", lambda run: [run / "checkpoints" / f"step-{n:08d}" for n in (10, 20, 25, 30)]
    )
    return called


def test_the_newest_due_checkpoint_is_measured_by_every_probe(tmp_path: Path, commands: list[tuple[str, ...]]) -> None:
    run = store_config(config(tmp_path, PROBES, "steps=40", "checkpoint.every=10", "evaluation.probe_every=2")).parent
    (found,) = probing.probe(run, follow=False)  # 10 and 30 are left out, and 25 is of no period
    assert (found["steps_done"], found["failed"]) == (20, {})
    assert found["probes"] == {"one": {"mcc": 0.25}, "BRCA-1": {"auroc": 0.5}, "genes": {"auprc": 0.75}}
    assert [words[0] for words in commands] == ["export", "finetune", "variants", "annotate"]
    assert commands[0][-2:] == ("--step", "20")
    assert commands[3][1:5] == ("--annotation", "genes.gtf.gz", "--fasta", "g.fa")
    assert "steps=9" in commands[3]
    assert not list(probing.probe(run, follow=False)), "a result is not made again"


def test_a_failed_probe_is_told_and_the_others_go_on(
    tmp_path: Path, commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = store_config(config(tmp_path, PROBES, "steps=30", "checkpoint.every=30")).parent
    pretend = probing._run

    def failing(words: tuple[str, ...], parent: int | None) -> None:
        if words[0] == "variants":
            raise Failure("variants ended with exit code 2: no such column")
        pretend(words, parent)

    monkeypatch.setattr(probing, "_run", failing)
    assert main(["probe", str(run)]) == 1
    said = "probes of step 30: one mcc 0.25, genes auprc 0.75, BRCA-1 failed (variants ended with exit code 2: "
    assert said in capsys.readouterr().out
    assert [path.name for path in (run / "probes").iterdir()] == ["step-00000030.json"]
    monkeypatch.setattr(probing, "_run", pretend)
    assert main(["probe", str(run)]) == 0, "what failed is measured once more"
    assert "BRCA-1 auroc 0.5" in capsys.readouterr().out
    monkeypatch.setitem(WRITTEN, "annotate", ("metrics.json", {"probe": []}))
    (run / "probes" / "step-00000030.json").unlink()
    assert main(["probe", str(run)]) == 1
    assert "genes failed (its result is not readable: ValueError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ("[{}]", "needs one of task, vcf and annotation; it has none"),
        ("[{task: a, vcf: b}]", "it has task, vcf"),
        ("[{vcf: b, fasta: c}]", "a probe with vcf needs label"),
        ("[{annotation: a, fasta: b}]", r"needs arguments: \[--validation"),
        ("[{task: a/x}, {task: b/x}]", "two have the same name among x, x"),
    ],
)
def test_a_probe_that_cannot_work_is_refused_before_the_run(tmp_path: Path, probes: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        config(tmp_path, f"evaluation.probes={probes}")


def test_a_run_without_probes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run: Any = store_config(config(tmp_path)).parent
    assert main(["probe", str(run)]) == 2
    assert "its config has no evaluation.probes" in capsys.readouterr().err

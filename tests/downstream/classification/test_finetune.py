"""`dnachunker finetune`: methods in one table, results that repeat, and classifiers that other programs can load."""

import csv
import gzip
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dnachunker.cli import main
from dnachunker.downstream.tasks.labelled import read_labelled

FAST = ("epochs=2", "batch_size=16", "kmer=3", "bootstrap=20", "learning_rate=3e-3")


def finetune(export: Path, task: Path, output: Path, *methods: str, extra: tuple[str, ...] = ()) -> int:
    chosen = [word for method in methods for word in ("--method", method)]
    where = ["--model", str(export), "--task", str(task), "--output", str(output)]
    return main(["finetune", *where, *chosen, *FAST, *extra])


def test_every_method_gives_a_row_and_a_loadable_classifier(export: Path, tasks: Path, tmp_path: Path) -> None:
    methods = ("full", "lora", "probe", "kmer", "random-full", "random-probe")
    assert finetune(export, tasks / "three", tmp_path / "out", *methods, extra=("class_weights=true",)) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [row["method"] for row in rows] == list(methods)
    for row in rows:
        folder = tmp_path / "out" / "three" / row["method"]
        predictions = pq.read_table(folder / "predictions.parquet").to_pandas()
        probabilities = predictions.filter(like="probability").to_numpy()
        assert probabilities.shape == (30, 3)
        accuracy = (probabilities.argmax(1) == predictions["label"]).mean()
        assert float(row["accuracy_mean"]) == pytest.approx(accuracy, abs=1e-6)
        if row["method"] == "kmer":
            assert not (folder / "model").exists()
            continue
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", trust_remote_code=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False)
        assert model.config.id2label == {0: "0", 1: "1", 2: "2"}
        sequence = read_labelled(tasks / "three" / "test.csv.gz").sequences[0]
        opposite = sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))
        with torch.no_grad():
            both = [model(**tokenizer(strand, return_tensors="pt")).logits[0] for strand in (sequence, opposite)]
        expected = torch.stack(both).double().mean(0).softmax(-1).numpy()
        np.testing.assert_allclose(probabilities[0], expected, atol=1e-4)
    lora, full = (json.loads((tmp_path / "out" / "three" / m / "result.json").read_text()) for m in ("lora", "full"))
    assert 0 < lora["training"]["trained_parameters"] < full["training"]["trained_parameters"] / 2


def test_the_same_command_gives_the_same_numbers_and_another_is_refused(
    export: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for name in ("a", "b"):
        assert finetune(export, tasks / "one", tmp_path / name, "full") == 0
        tables.append(pq.read_table(tmp_path / name / "one" / "full" / "predictions.parquet"))
    assert tables[0].equals(tables[1])
    capsys.readouterr()
    assert finetune(export, tasks / "one", tmp_path / "a", "full", extra=("seed=1",)) == 2
    assert "was made with seed 0, and this is 1" in capsys.readouterr().err
    changed = shutil.copytree(tasks / "one", tmp_path / "changed" / "one")
    text = gzip.decompress((changed / "train.csv.gz").read_bytes())
    (changed / "train.csv.gz").write_bytes(gzip.compress(text.replace(b",0", b",1", 1)))
    assert finetune(export, changed, tmp_path / "a", "full") == 2
    assert "is a result of other data" in capsys.readouterr().err


@pytest.mark.parametrize("patched", [True, False])
def test_a_diverged_training_is_a_result_that_says_so(
    export: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patched: bool
) -> None:
    extra = ("learning_rate=1e30", "weight_decay=0.0")
    if patched:
        monkeypatch.setattr("dnachunker.downstream.classification.ranks.Ranks.add", lambda *_: float("nan"))
        extra = ()
    assert finetune(export, tasks / "one", tmp_path / "out", "full", extra=extra) == 0
    record = json.loads((tmp_path / "out" / "one" / "full" / "result.json").read_text())
    assert record["training"]["diverged"] is True
    assert (record["validation"], record["training"]["epoch"]) == (-1.0, 0)
    assert all(math.isfinite(value) for value in record["scores"].values())
    assert "epoch 0, diverged" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    ("model", "task", "extra", "message"),
    [
        ("nowhere", "one", (), "no exported model"),
        (None, "four", (), "no such folder"),
        (None, "one", ("epoch=1",), "unknown key 'epoch'; nearest valid key: 'epochs'"),
    ],
)
def test_mistakes_give_one_line_and_leave_nothing(
    export: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str | None, task: str,
    extra: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    folder = tmp_path / model if model else export
    assert finetune(folder, tasks / task, tmp_path / "out", "full", extra=extra) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_classes_of_one_sequence_leave_nothing_to_validate_on(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("sequence,label\nACGTTGCA,0\nGGGTTTGA,1\n")
    assert finetune(export, tmp_path, tmp_path / "out", "kmer") == 2
    assert "no class has a second sequence to validate on" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_train_the_same_classifier(export: Path, tasks: Path, tmp_path: Path, dnachunker) -> None:
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        done = dnachunker(
            "finetune", "--model", export, "--task", tasks / "one", "--output", output, "--processes", processes, *FAST
        )
        assert done.returncode == 0, done.stderr
        found.append(pq.read_table(output / "one" / "full" / "predictions.parquet").to_pandas().to_numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


@pytest.mark.slow
def test_two_ranks_stop_together_when_training_diverges(export: Path, tasks: Path, tmp_path: Path, dnachunker) -> None:
    where = ("--model", export, "--task", tasks / "one", "--output", tmp_path / "out", "--processes", 2)
    done = dnachunker("finetune", *where, *FAST, "learning_rate=1e30", "weight_decay=0.0")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "one" / "full" / "result.json").read_text())
    assert record["training"]["diverged"] is True

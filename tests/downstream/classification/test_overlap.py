"""A table says how much of each test set the model's corpus held in its training split."""

import csv
import random
from pathlib import Path

import pytest

from dnachunker.cli import main
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.similarity.overlap import shares_in_train

OPPOSITE = str.maketrans("ACGT", "TGCA")


def pieces_of(corpus: Corpus, split: str, count: int) -> list[str]:
    """Stretches of 200 bases, half of them from the other strand, in mixed case."""
    draw, table = random.Random(split), corpus.blocks(split)
    found = []
    while len(found) < count:
        letters = corpus.read_block(table, draw.randrange(len(table))).letters.decode().upper()
        start = draw.randrange(len(letters) - 200)
        piece = letters[start : start + 200]
        if "N" not in piece:
            found.append(piece.lower() if len(found) % 2 else piece.translate(OPPOSITE)[::-1])
    return found


def made_up(count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices("ACGT", k=200)) for _ in range(count)]


def test_a_planted_leak_is_found_on_either_strand_and_nothing_else(sample_corpus: Path) -> None:
    corpus = Corpus.open(sample_corpus)
    leaked = pieces_of(corpus, "train", 40)
    shares = shares_in_train(corpus, {
        "leaked": leaked, "half": leaked[:20] + made_up(20), "made up": made_up(40), "short": ["ACGT"],
        "held out": pieces_of(corpus, "valid", 40),
    })  # fmt: skip
    assert shares["leaked"] == 1
    assert shares["half"] == pytest.approx(0.5, abs=0.02)
    assert shares["made up"] == 0
    assert shares["held out"] < 0.2, "`dnachunker shard` reports what repeats the splits share"
    assert shares["short"] != shares["short"], "no k-mer fits into it"


def test_the_tables_of_an_evaluation_name_the_leak(sample_corpus: Path, export: Path, tmp_path: Path) -> None:
    leaked = pieces_of(Corpus.open(sample_corpus), "train", 10)
    for split, sequences in (("train", made_up(40)), ("test", leaked + made_up(10))):
        with (tmp_path / f"{split}.csv").open("w") as file:
            out = csv.writer(file)
            out.writerow(["sequence", "label"])
            out.writerows((letters, number % 2) for number, letters in enumerate(sequences))
    command = ["evaluate", "--model", str(export), "--suite", str(tmp_path), "--output", str(tmp_path / "out")]
    command += ["--method", "kmer", "--config", "quick", "--mlflow", "none", "--corpus", str(sample_corpus)]
    command += ["folds=2", "seeds=1", "learning_rates=[1e-3]", "batch_sizes=[16]", "training.epochs=1"]
    command += ["training.kmer=3", "training.bootstrap=20"]
    unknown = "Not checked: how much of the test sequences"
    assert main(command) == 0
    for name in ("table.md", "table.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "of the corpus given" in text
        assert unknown not in text
        assert f"{tmp_path.name} 50.0 %" in text
    without = [word for word in command if word not in ("--corpus", str(sample_corpus))]
    assert main(without) == 0, "the scores are there already; only the tables are written again"
    assert unknown in (tmp_path / "out" / "table.md").read_text()

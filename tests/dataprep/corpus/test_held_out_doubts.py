"""A corpus whose held-out splits say little says so, to whoever builds it, trains on it, or reads about a model."""

import random
from pathlib import Path

import pytest

from dnachunker.cli import main
from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.held_out_doubts import held_out_doubts
from dnachunker.dataprep.corpus.index import Corpus


def letters(count: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=count))


def corpus_of(tmp_path: Path, split: dict[str, object], **genomes: str) -> Corpus:
    for name, sequence in genomes.items():
        (tmp_path / f"{name}.fa").write_text(f">chr_{name}\n{sequence}\n")
    config = CorpusConfig.model_validate({
        "sources": {name: {"path": str(tmp_path / f"{name}.fa"), "species": name} for name in genomes},
        "split": split, "block_bases": 256, "duplicates": "keep",
    })  # fmt: skip
    return build_corpus(config, tmp_path / "corpus", workers=0, quiet=True).corpus


def doubts_of(corpus: Corpus) -> list[str]:
    return held_out_doubts(corpus.index, corpus.blocks())


def test_shares_far_from_those_asked_for_are_named(tmp_path: Path) -> None:
    rule = {"kind": "hash", "tile": 20_000, "valid": 0.3}
    doubts = doubts_of(corpus_of(tmp_path, rule, small=letters(19_000, 1), large=letters(200_000, 2)))
    assert any(line.startswith("small: ") for line in doubts)
    for line in doubts:
        assert "30.0% are asked for" in line
        assert "split.tile" in line


def test_fine_tiles_leave_no_doubt(tmp_path: Path) -> None:
    rule = {"kind": "hash", "tile": 512, "valid": 0.2, "test": 0.2}
    assert doubts_of(corpus_of(tmp_path, rule, one=letters(200_000, 1), two=letters(200_000, 2))) == []


def test_a_relative_in_train_is_named_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = letters(60_000, 1)
    strain = parent[:30_000] + letters(1, 9) + parent[30_001:]
    rule = {"kind": "bed", "path": str(tmp_path / "held_out.bed")}
    (tmp_path / "held_out.bed").write_text("chr_both\t0\t60000\ttrain\nchr_both\t60000\t120000\tvalid\n")
    corpus = corpus_of(tmp_path, rule, both=parent + strain)
    (line,) = doubts_of(corpus)
    assert line.startswith("both: ")
    assert "of its 31-mers in valid are in train too" in line
    assert line in (tmp_path / "corpus" / "card.html").read_text()
    assert main(["corpus", "info", corpus.path]) == 0
    assert f"warning: {line}" in capsys.readouterr().out

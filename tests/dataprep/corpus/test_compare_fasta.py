"""`corpus verify --fasta` compares a corpus with its genome, in every format that a corpus is built from."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyfaidx
import pytest
import zstandard

from dnachunker.dataprep.corpus import compare_fasta
from dnachunker.dataprep.corpus.compare_fasta import compare_with_fasta
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.failures import BadInput

GENOME = b">a first\nACGTacgtNNRYacgt\nGGGG\n>b/odd name\nTTTTccccTT\n"


def test_a_corpus_equals_its_genome_and_a_changed_genome_is_reported(
    build: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = build(GENOME)
    genome = tmp_path / "genome.fa"
    assert compare_with_fasta(corpus, [str(genome)]) == []
    assert compare_with_fasta(corpus, [f"g={genome}"]) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "genome.fa"]  # no index is left behind

    genome.write_bytes(GENOME.replace(b"GGGG", b"GGCG").replace(b"TTccccTT", b"TTcCccTT"))
    assert compare_with_fasta(corpus, [str(genome)]) == [
        f"{genome}: g/a:19 is C but G in the corpus; 1 of the 4 bases of block {corpus.blocks().key[1]} differ",
        f"{genome}: g/b/odd:6 is C but c in the corpus; 1 of the 10 bases of block {corpus.blocks().key[2]} differ",
    ]
    genome.write_bytes(GENOME[:-4] + b"\n")
    assert "has 7 bases from 1 on where the corpus has 10" in compare_with_fasta(corpus, [str(genome)])[0]


def test_a_plain_genome_is_read_by_code_that_is_not_ours(
    build: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = build(GENOME)
    monkeypatch.setattr(compare_fasta, "Genome", None)
    assert compare_with_fasta(corpus, [str(tmp_path / "genome.fa")]) == []


def test_a_difference_that_only_pyfaidx_sees_is_not_reported(build: Callable[..., Corpus], tmp_path: Path) -> None:
    blanks = GENOME.replace(b"acgt\nGGGG", b"acgt \nGGGG ").replace(b"\nTTTT", b"\nTT TT")
    corpus = build(blanks)
    genome = tmp_path / "genome.fa"
    fasta = pyfaidx.Fasta(str(genome), indexname=str(tmp_path / "index.fai"))
    assert " " in str(fasta["a"])  # so the two readings do differ
    fasta.close()
    assert compare_with_fasta(corpus, [str(genome)]) == []
    genome.write_bytes(blanks.replace(b"GGGG", b"GGCG"))
    (line,) = compare_with_fasta(corpus, [str(genome)])
    assert "g/a:19 is C but G in the corpus; 1 of the 4 bases" in line


@pytest.mark.parametrize("genome", [b"\xef\xbb\xbf" + GENOME, GENOME.replace(b"acgt\nGGGG", b"acgt\n\nGG\nGG\n\n")])
def test_a_genome_that_pyfaidx_cannot_index_is_compared_too(
    build: Callable[..., Corpus], tmp_path: Path, genome: bytes
) -> None:
    corpus = build(GENOME)
    (tmp_path / "odd.fa").write_bytes(genome)
    assert compare_with_fasta(corpus, [str(tmp_path / "odd.fa")]) == []


@pytest.mark.parametrize(
    ("item", "message"), [("x=genome.fa", "the sources of .* are g"), ("nowhere.fa", "nowhere.fa: no such file")]
)
def test_what_cannot_be_compared_is_refused(build: Callable[..., Any], item: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        compare_with_fasta(build(GENOME), [item])


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_genome_is_compared_too(
    build: Callable[..., Corpus], tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    corpus = build(GENOME)
    (tmp_path / "packed").write_bytes(pack(GENOME))
    assert compare_with_fasta(corpus, [str(tmp_path / "packed")]) == []
    (tmp_path / "packed").write_bytes(pack(GENOME.replace(b"GGGG", b"GGCG")))
    assert len(compare_with_fasta(corpus, [str(tmp_path / "packed")])) == 1

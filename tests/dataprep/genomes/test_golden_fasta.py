"""Awkward genomes as they occur, at their real sizes; small malformed files are in test_prepare.py."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.verify import verify_corpus
from dnachunker.foundations.failures import BadInput

Build = Callable[..., Corpus]
Reassemble = Callable[[Corpus, str], dict[str, str]]


def letters(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).choice(np.frombuffer(b"ACGTacgt", np.uint8), count).tobytes()


def test_ten_thousand_tiny_contigs(build: Build, reassemble: Reassemble) -> None:
    """Each becomes a block of its own; none is lost, and the table names them all."""
    rng = random.Random(1)
    contigs = {f"scaffold_{n}": letters(rng.randrange(30, 200), n) for n in range(10_000)}
    data = b"".join(b">%s len=%d\n%s\n" % (name.encode(), len(text), text) for name, text in contigs.items())
    corpus = build(data, block_bases=2**20)
    assert len(corpus.blocks()) == 10_000
    assert reassemble(corpus, "g") == {name: text.decode() for name, text in contigs.items()}
    assert (Path(corpus.path) / "card.html").stat().st_size < 200_000


@pytest.mark.parametrize(("name", "pack"), [("g.fa", bytes), ("g.fa.gz", gzip.compress)])
def test_a_contig_that_is_nearly_all_n(name: str, pack: Callable[[bytes], bytes], build: Build) -> None:
    """Like chrUn of a draft genome: 63 Mb, 98 % N. The N are left out and counted; every other base is kept."""
    islands = [letters(25_200, n) for n in range(50)]
    contig = b"".join(b"N" * 1_234_800 + island for island in islands)
    lines = b"\n".join(contig[i : i + 70_000] for i in range(0, len(contig), 70_000))
    corpus = build(pack(b">chrUn\n" + lines), name=name, block_bases=2**20, n_gap=1000, max_n=0.5)
    source = corpus.sources[0]
    assert source.bases == 63_000_000
    assert source.bases_in_splits == 50 * 25_200
    assert source.n_bases == 0
    assert [(row.reason, row.blocks, row.bases) for row in corpus.index.dropped] == [("gap", 50, 50 * 1_234_800)]
    assert verify_corpus(corpus) == []
    table = corpus.blocks()
    for row in range(len(table)):
        start = int(table.start[row])
        assert corpus.read_block(table, row).letters == contig[start : int(table.end[row])]


def test_one_base(build: Build, reassemble: Reassemble) -> None:
    corpus = build(b">a\nG", block_bases=2**20)
    assert reassemble(corpus, "g") == {"a": "G"}
    assert verify_corpus(corpus) == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(("width", "bases"), [(1, 300_000), (10_000_000, 25_000_000)])
def test_lines_of_any_length(width: int, bases: int, end: bytes, build: Build, reassemble: Reassemble) -> None:
    text = letters(bases)
    lines = end.join(text[i : i + width] for i in range(0, bases, width))
    corpus = build(b">a" + end + lines + end, block_bases=2**20)
    assert reassemble(corpus, "g")["a"] == text.decode()


NAMES = [
    "a/b",
    "../../etc/passwd",
    "..",
    ".",
    "gi|12|ref|NC_1.2|",
    "chr1_KI270706v1_random",
    "ü€😀",
    "a" * 300,
    "-x",
    "$(id)",
]


def test_names_are_kept_and_never_become_paths(build: Build, reassemble: Reassemble, tmp_path: Path) -> None:
    """A name is the first word of its header; keys and files are made of safe letters alone."""
    contigs = {name: letters(40, n) for n, name in enumerate(NAMES)}
    data = b"".join(b">%s with spaces | and more\n%s\n" % (name.encode(), text) for name, text in contigs.items())
    corpus = build(data, block_bases=64, split={"kind": "contigs", "splits": {"valid": ["../../etc/passwd"]}})
    assert reassemble(corpus, "g") == {name: text.decode() for name, text in contigs.items()}
    assert verify_corpus(corpus) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "genome.fa"]
    files = {path.name for path in (tmp_path / "corpus").iterdir()}
    assert files == {"blocks.parquet", "card.html", "index.json", "train-000000.tar.zst", "valid-000000.tar.zst"}


def test_names_alike_in_all_but_spelling_are_refused_or_apart(build: Build, reassemble: Reassemble) -> None:
    corpus = build(b">a_b\nACGTA\n>a|b\nCCCCC\n>a/b\nGGGGG\n")
    assert len(set(corpus.blocks().key.tolist())) == 3
    with pytest.raises(BadInput, match="contig a/b again, first on line 1"):
        build(b">a/b x\nACGTA\n>a/b y\nCCCCC\n", output="other")

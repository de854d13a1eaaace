"""Repeats from a BED file or RepeatMasker's .out replace the FASTA file's lower case."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.verify import verify_corpus
from dnachunker.foundations.failures import BadInput

FASTA = b">a\nacgtACGTACGTACGTACGT\n>b\nACGTACGTNNacgt\n"
BED = "track name=rmsk\n#c\na\t2\t6\tAlu\na\t4\t8\tL1\na\t19\t20\nb\t0\t3\nchrUn\t0\t999\n"
OUT = """\
   SW   perc perc perc  query     position in query    matching  repeat       position in repeat
score   div. del. ins.  sequence  begin end   (left)   repeat    class/family begin  end    (left)  ID

  463   1.3  0.6  1.7  a         3      6     (14) +  (TAACCC)n Simple_repeat      1  471    (0)      1
 3612  11.4 21.5  1.3  a         5      8     (12) C  TAR1      Satellite/telo (399) 1712    483      2 *
   18   4.4  0.0  0.0  a         20     20    (0)  +  L1MC      LINE/L1         5648 6174  (1)      3
   18   4.4  0.0  0.0  b         1      3     (11) +  L1MC      LINE/L1         5648 6174  (1)      4
"""
MASKED = {"a": "ACgtacgtACGTACGTACGt", "b": "acgTACGTNNACGT"}


def make(folder: Path, kind: str, data: bytes, fasta: bytes = FASTA) -> Corpus:
    (folder / "g.fa").write_bytes(fasta)
    (folder / "repeats").write_bytes(data)
    source = {"path": str(folder / "g.fa"), "repeats": {"kind": kind, "path": str(folder / "repeats")}}
    config = CorpusConfig(sources={"g": source}, split={"kind": "contigs", "splits": {}}, block_bases=16)
    return build_corpus(config, folder / "corpus", workers=0, quiet=True).corpus


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(("kind", "text"), [("bed", BED), ("repeatmasker", OUT)])
def test_listed_repeats_replace_the_soft_mask(
    kind: str, text: str, pack: Callable[[bytes], bytes], tmp_path: Path, reassemble: Any
) -> None:
    corpus = make(tmp_path, kind, pack(text.encode()))
    assert reassemble(corpus, "g") == MASKED
    assert corpus.sources[0].soft_masked == 10
    assert verify_corpus(corpus) == []


def test_the_list_belongs_to_the_corpus(tmp_path: Path) -> None:
    first = make(tmp_path, "bed", BED.encode())
    assert str(tmp_path) not in (tmp_path / "corpus" / "index.json").read_text()
    assert make(tmp_path, "bed", BED.encode()).fingerprint == first.fingerprint
    with pytest.raises(BadInput, match="--overwrite"):
        make(tmp_path, "bed", BED.replace("b\t0\t3\n", "").encode())


def test_no_repeats_at_all(tmp_path: Path, reassemble: Any) -> None:
    assert reassemble(make(tmp_path, "bed", b""), "g") == {name: text.upper() for name, text in MASKED.items()}


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("bed", "a\t2\t21\n", r"line 1: a:3-21 is not within a, which has 20 bases"),
        ("bed", "a\t5\t5\n", r"line 1: start 5 and end 5"),
        ("bed", "\na\t5\n", r"line 2: not `contig start end`"),
        ("bed", "a\t-1\t5\n", r"line 1: '-1' is not a coordinate"),
        ("bed", "a\t1\t" + "9" * 5000, r"is not a coordinate"),
        ("bed", "chr1\t1\t5\n", r"no contig of the genome: the file names chr1, the genome has a"),
        ("bed", "a" * 2**21, r"line 1: longer than 1,048,576 bytes"),
        ("repeatmasker", "1 2 3 4 a x 7 8 9 10 11\n", r"line 1: 'x' is not a coordinate"),
        ("repeatmasker", OUT + "1 2 3\n", r"line 8: not a line of RepeatMasker"),
        (
            "repeatmasker",
            OUT.replace("  20     20 ", "  0      20 "),
            r"line 6: start 0 and end 20: bases count from 1",
        ),
    ],
)
def test_a_bad_list_is_one_line(kind: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message) as error:
        make(tmp_path, kind, text.encode())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "corpus").exists()

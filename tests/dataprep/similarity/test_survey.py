"""A build leaves out runs of N, blocks of mostly N, and duplicates, and reports leakage."""

from collections.abc import Callable

import numpy as np
import pytest

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.genomes.prepared_sequence import Stretch
from dnachunker.dataprep.packed_codes import find_runs, pack_bases
from dnachunker.dataprep.similarity.kmer_sketch import KMER, sample_kmers, sample_rate
from dnachunker.foundations.failures import BadInput

COMPLEMENT = str.maketrans("ACGTacgt", "TGCAtgca")
RANDOM = np.random.default_rng(7)


def dna(bases: int) -> str:
    return "".join(RANDOM.choice(list("ACGT"), bases))


def reverse(letters: str) -> str:
    return letters.translate(COMPLEMENT)[::-1]


def fasta(**contigs: str) -> bytes:
    return "".join(f">{name}\n{letters}\n" for name, letters in contigs.items()).encode()


def dropped(corpus: Corpus) -> dict[tuple[str, str], tuple[int, int]]:
    return {(row.split, row.reason): (row.blocks, row.bases) for row in corpus.index.dropped}


def test_long_runs_of_n_split_blocks_and_full_or_short_blocks_are_dropped(
    build: Callable[..., Corpus], reassemble: Callable[..., dict[str, str]]
) -> None:
    a, b, c, d = dna(100), dna(45), dna(7), dna(80)
    letters = "N" * 60 + a + "N" * 49 + b + "n" * 50 + c + "R" * 10 + "N" * 60 + d + "N" * 50
    corpus = build(fasta(chr=letters), block_bases=64, n_gap=50, max_n=0.5, min_bases=10, duplicates="refuse")
    table = corpus.blocks("train")
    spans = list(zip(table.start.tolist(), table.end.tolist(), strict=True))
    # 60-254 is one piece, since its run of 49 N is no gap; two of its blocks are a third or more N
    assert spans == [(60, 124), (124, 188), (188, 252), (381, 445), (445, 461)]
    assert dropped(corpus) == {("train", "gap"): (4, 230), ("train", "too_short"): (2, 2 + 7)}
    kept = [any(start <= place < end for start, end in spans) for place in range(len(letters))]
    expected = "".join(letter if keep else "." for letter, keep in zip(letters, kept, strict=True))
    assert reassemble(corpus, "g") == {"chr": expected.replace("R", "N")}
    assert sum(bases for _, bases in dropped(corpus).values()) + table.bases.sum() == len(letters)
    strict = build(fasta(chr=letters), output="strict", block_bases=64, n_gap=50, max_n=0.3, min_bases=10)
    assert dropped(strict)["train", "too_much_n"] == (2, 128)


def test_duplicates_are_dropped_within_a_split(build: Callable[..., Corpus]) -> None:
    one, two = dna(200), dna(200)
    letters = fasta(a=one, b=two, c=reverse(one).lower(), d=two[:199], e=one)
    corpus = build(letters, block_bases=256, duplicates="refuse")
    assert corpus.blocks().contig.tolist() == ["a", "b", "d"]
    assert dropped(corpus) == {("train", "duplicate"): (2, 400)}


def test_duplicates_across_splits_are_refused_naming_both_places(build: Callable[..., Corpus]) -> None:
    one, two = dna(200), dna(20)
    letters = fasta(a=one, b=dna(300), c=reverse(one), d=two, e=dna(40), f=two)
    held_out = {"kind": "contigs", "splits": {"valid": ["c"], "test": ["f"]}}
    with pytest.raises(BadInput, match=r"2 blocks .*train g/a:1-200 equals valid g/c:1-200; train g/d:1-20 equals"):
        build(letters, block_bases=512, split=held_out, duplicates="refuse")
    corpus = build(letters, block_bases=512, split=held_out, duplicates="drop")
    assert corpus.blocks("train").contig.tolist() == ["b", "e"]
    assert corpus.blocks("valid").contig.tolist() == ["c"]
    assert dropped(corpus) == {("train", "duplicate"): (2, 220)}
    assert corpus.index.leakage
    assert [(row.split, row.in_train) for row in corpus.index.leakage.rows] == [("valid", 0), ("test", 0)]


def test_leakage_counts_exact_31_mers_of_either_strand(build: Callable[..., Corpus]) -> None:
    shared, own = dna(500), dna(300)
    letters = fasta(train=dna(1000) + shared, valid=own + reverse(shared), other="ACGT" * 2)
    split = {"kind": "contigs", "splits": {"valid": ["valid"], "test": ["other"]}}
    report = build(letters, block_bases=4096, split=split, duplicates="refuse").index.leakage
    assert report
    assert (report.k, report.sampled) == (31, 1.0)
    valid, other = report.rows
    assert (valid.split, valid.source, valid.kmers, valid.in_train) == ("valid", "g", 800 - 30, 500 - 30)
    assert (other.kmers, other.share) == (0, 0.0)


def stretch(codes: np.ndarray) -> Stretch:
    bases = np.frombuffer(pack_bases(np.where(codes < 4, codes, 0).astype(np.uint8)), np.uint8)
    return Stretch(codes.size, bases, find_runs(codes >= 4), find_runs(codes < 0))


def test_a_sample_is_the_same_for_every_sequence_and_both_strands() -> None:
    packed = RANDOM.integers(0, 4, 300_000).astype(np.uint8)
    packed[1000:1010] = 4
    backward = np.where(packed < 4, 3 - packed, packed)[::-1].astype(np.uint8)
    everything, _ = sample_kmers(stretch(packed), sample_rate(1.0))
    assert everything.size == packed.size - KMER + 1 - (10 + KMER - 1)
    for share in (0.3, 0.01, 0.001):
        rate = sample_rate(share)
        assert rate.share == pytest.approx(share, rel=1e-3)
        sample, fingerprint = sample_kmers(stretch(packed), rate)
        again, same = sample_kmers(stretch(backward), rate)
        assert (sorted(sample), fingerprint) == (sorted(again), same)
        assert sample.size == pytest.approx(share * everything.size, rel=0.25)
        pieces = [
            sample_kmers(stretch(packed[i : i + 50_000 + KMER - 1]), rate)[0] for i in range(0, packed.size, 50_000)
        ]
        assert sorted(np.concatenate(pieces)) == sorted(sample)


def test_a_sampled_kmer_is_spelled_right() -> None:
    letters = dna(KMER)
    packed = np.array(["ACGT".index(letter) for letter in letters], np.uint8)
    numbers = [
        int("".join(str("ACGT".index(letter)) for letter in strand), 4) for strand in (letters, reverse(letters))
    ]
    assert sample_kmers(stretch(packed), sample_rate(1.0))[0].tolist() == [min(numbers)]

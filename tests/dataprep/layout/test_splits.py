from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnachunker.dataprep.config import BedSplit, ContigSplit, HashSplit
from dnachunker.dataprep.layout.blocks import Dropped, contig_key_names, cut_blocks, plan_shards, split_at_gaps
from dnachunker.dataprep.layout.splits import Interval, audit_overlap, divide
from dnachunker.foundations.failures import BadInput

CONTIGS = {"chr1": 1000, "chr2": 500, "chrX": 90}


def paint(intervals: list[Interval]) -> dict[str, np.ndarray]:
    """`contig -> (length,) split name of each base`, '' where unused; fails if a base is painted twice."""
    painted = {contig: np.full(size, "", "<U8") for contig, size in CONTIGS.items()}
    for contig, start, end, split in intervals:
        assert (painted[contig][start:end] == "").all()
        painted[contig][start:end] = split
    return painted


def bed(tmp_path: Path, text: str, **values: Any) -> BedSplit:
    path = tmp_path / "splits.bed"
    path.write_text(text)
    return BedSplit(kind="bed", path=str(path), **values)


def test_whole_contigs_by_name_and_glob() -> None:
    rule = ContigSplit(splits={"valid": ("chrX",), "test": ("chr[2]",)})
    assert divide(rule, CONTIGS, source="g", seed=0) == [
        Interval("chr1", 0, 1000, "train"),
        Interval("chr2", 0, 500, "test"),
        Interval("chrX", 0, 90, "valid"),
    ]


def test_a_contig_in_two_splits_is_refused() -> None:
    rule = ContigSplit(splits={"valid": ("chr*",), "test": ("chr2", "chrX")})
    with pytest.raises(BadInput, match=r"splits share bases in 2 pairs: .*chr2:1-500.*chrX:1-90"):
        divide(rule, CONTIGS, source="g", seed=0)


def test_an_unknown_contig_is_named_with_its_nearest() -> None:
    with pytest.raises(BadInput, match=r"'chromosome1'.*nearest: chr1"):
        divide(ContigSplit(splits={"valid": ("chromosome1",)}), CONTIGS, source="g", seed=0)


def test_bed_intervals_and_the_rest(tmp_path: Path) -> None:
    text = (
        "# comment\ntrack name=x\nchr1\t0\t100\ttrain\nchr1\t50\t200\ttrain\nchr1\t200\t300\tvalid\nchrM\t0\t5\ttest\n"
    )
    used = divide(bed(tmp_path, text), CONTIGS, source="g", seed=0)
    assert used == [Interval("chr1", 0, 200, "train"), Interval("chr1", 200, 300, "valid")]
    painted = paint(divide(bed(tmp_path, text, rest="train"), CONTIGS, source="g", seed=0))
    assert (painted["chr1"][200:300] == "valid").all()
    assert sum((p == "train").sum() for p in painted.values()) == 1590 - 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t0\t100\ttrain\nchr1\t90\t120\tvalid\n", r"train chr1:1-100 and valid chr1:91-120"),
        # a long interval overlaps one that is not its neighbour: others start in between
        ("chr1\t0\t900\ttrain\nchr1\t5\t9\ttrain\nchr1\t800\t850\ttest\n", r"train chr1:1-900 and test chr1:801-850"),
        ("chr1\t0\t1001\ttrain\n", r"line 1: chr1:1-1001 is not within chr1.*1,000 bases"),
        ("chr9\t0\t10\ttrain\n", r"no contig of the genome: the file names chr9, the genome has chr1"),
        ("chr1\t10\t10\ttrain\n", r"line 1: start 10 and end 10"),
        ("chr1\t0\t10\n", r"line 1: column 4 is missing"),
        ("\n\nchr1\t-1\t10\ttrain\n", r"line 3: '-1' is not a coordinate"),
        ("chr1\t0\t10\tTrain Set\n", r"not a split name"),
        ("", r"no interval"),
    ],
)
def test_bad_bed_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        divide(bed(tmp_path, text), CONTIGS, source="g", seed=0)


def test_overlaps_are_all_counted(tmp_path: Path) -> None:
    lines = [f"chr1\t{i * 10}\t{i * 10 + 20}\t{'train' if i % 2 else 'valid'}" for i in range(20)]
    with pytest.raises(BadInput, match="in 19 pairs:.*; and 14 more"):
        divide(bed(tmp_path, "\n".join(lines)), CONTIGS, source="g", seed=0)
    # one interval overlaps many: every pair counts, not only the nearest one
    lines = ["chr1\t0\t1000\ttrain", *(f"chr1\t{i * 10}\t{i * 10 + 5}\tvalid" for i in range(30))]
    with pytest.raises(BadInput, match="in 30 pairs:"):
        divide(bed(tmp_path, "\n".join(lines)), CONTIGS, source="g", seed=0)


@given(
    st.lists(
        st.tuples(st.sampled_from(list(CONTIGS)), st.integers(0, 80), st.integers(1, 60), st.sampled_from("abc")),
        min_size=1,
        max_size=25,
    )
)
@settings(max_examples=200, deadline=None)
def test_the_audit_counts_every_pair(rows: list[tuple[str, int, int, str]]) -> None:
    pieces = sorted((Interval(c, start, start + size, split) for c, start, size, split in rows), key=lambda p: p[:3])
    pieces.sort(key=lambda piece: list(CONTIGS).index(piece.contig))
    pairs = sum(
        a.contig == b.contig and a.split != b.split and a.start < b.end and b.start < a.end
        for a, b in combinations(pieces, 2)
    )
    if not pairs:
        audit_overlap(pieces, "g")
        return
    with pytest.raises(BadInput, match=f"share bases in {pairs} pairs"):
        audit_overlap(pieces, "g")


@pytest.mark.parametrize(
    ("text", "grow_to", "grown"),
    [
        ("chr1\t100\t200\ttrain\n", "power_of_two", (86, 214)),
        ("chr1\t100\t201\ttrain\n", "power_of_two", (87, 215)),  # 27 bases are added; the odd one goes to the right
        ("chr1\t100\t228\ttrain\n", "power_of_two", (100, 228)),
        ("chr1\t100\t101\ttrain\n", "power_of_two", (100, 101)),
        ("chr1\t10\t110\ttrain\n", "power_of_two", (0, 128)),  # shifted inwards
        ("chr1\t900\t1000\ttrain\n", "power_of_two", (872, 1000)),
        ("chrX\t0\t70\ttrain\n", "power_of_two", (0, 90)),  # no longer than its contig
        ("chr1\t100\t200\ttrain\n", 120, (90, 210)),
        ("chr1\t100\t200\ttrain\n", 50, (100, 200)),
    ],
)
def test_bed_intervals_grow_about_their_centre(
    text: str, grow_to: int | str, grown: tuple[int, int], tmp_path: Path
) -> None:
    (piece,) = divide(bed(tmp_path, text, grow_to=grow_to), CONTIGS, source="g", seed=0)
    assert (piece.start, piece.end) == grown


def test_intervals_that_overlap_once_grown_are_refused_and_listed(tmp_path: Path) -> None:
    """Basenji's intervals lie side by side; other projects grow them to a power of two, and so make them overlap."""
    width, contigs = 114_688, {"chr1": 12 * 114_688}
    splits = ["train", "train", "valid", "train", "test", "train", "train", "train", "valid", "valid", "train", "test"]
    text = "".join(f"chr1\t{i * width}\t{(i + 1) * width}\t{split}\n" for i, split in enumerate(splits))
    assert len(divide(bed(tmp_path, text), contigs, source="g", seed=0)) == 8
    with pytest.raises(BadInput) as error:
        divide(bed(tmp_path, text, grow_to="power_of_two"), contigs, source="g", seed=0)
    message = str(error.value)
    assert "splits share bases in 7 pairs of grown intervals: " in message
    assert "train chr1:106497-237568 and valid chr1:221185-352256" in message
    assert message.count(" and ") == 5 + 1
    assert "leave `split.grow_to` out" in message


@pytest.mark.parametrize("seed", range(8))
def test_hash_tiles_keep_their_distance(seed: int) -> None:
    rule = HashSplit(tile=40, valid=0.3, test=0.2, gap=15)
    intervals = divide(rule, CONTIGS, source="g", seed=seed)
    paint(intervals)
    for a, b in pairwise(intervals):
        assert a.contig != b.contig or b.start - a.end >= 15
    assert intervals == divide(rule, CONTIGS, source="other", seed=seed)
    # one contig's tiles do not depend on which others are used
    alone = divide(rule, {"chr2": 500}, source="g", seed=seed)
    assert alone == [piece for piece in intervals if piece.contig == "chr2"]


def test_hash_fractions_are_met_on_a_large_genome() -> None:
    contigs = {f"c{i}": 10**6 for i in range(20)}
    intervals = divide(HashSplit(tile=1000, valid=0.1, test=0.05), contigs, source="g", seed=1)
    share = {s: sum(p.end - p.start for p in intervals if p.split == s) / 2e7 for s in ("train", "valid", "test")}
    assert share == pytest.approx({"train": 0.85, "valid": 0.1, "test": 0.05}, abs=0.01)


def test_blocks_never_cross_a_split_and_shards_keep_order() -> None:
    intervals = divide(HashSplit(tile=70, valid=0.3), CONTIGS, source="g", seed=2)
    names = contig_key_names(list(CONTIGS))
    dropped = Dropped()
    blocks = cut_blocks("g", intervals, names, block_bases=32, min_bases=8, dropped=dropped)
    assert all(block.end - block.start <= 32 for block in blocks)
    assert sum(b.end - b.start for b in blocks) + dropped.bases_of("g", "too_short") == 1590
    for block in blocks:
        assert any(i.contig == block.contig and i.start <= block.start and block.end <= i.end for i in intervals)
    shards = plan_shards(blocks, shard_bases=200)
    assert all(shard.bases <= 200 for shard in shards)
    assert [b for s in shards for b in s.blocks] == sorted(blocks, key=lambda b: b.split)  # stable; train < valid
    assert next(s.name for s in shards if s.split == "valid") == "valid-000000.tar.zst"


def test_contig_names_that_spell_alike_get_different_keys() -> None:
    contigs = ["a.b", "a_b", "a/b", "chr1", "x" * 300, "x" * 299 + "y", "ü", "ö"]
    names = contig_key_names(contigs)
    assert len(set(names.values())) == len(contigs)
    assert all(name.replace("_", "").isalnum() and name.isascii() and len(name) <= 40 for name in names.values())
    assert names["chr1"] == "chr1"


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_gaps_are_cut_out_of_intervals_and_nothing_else_is(data: st.DataObject) -> None:
    def disjoint(most: int) -> list[tuple[int, int]]:
        edges = sorted(data.draw(st.sets(st.integers(0, 300), max_size=most)))
        return list(zip(edges[::2], edges[1::2], strict=False))

    intervals = [Interval("c", *piece, "train") for piece in disjoint(20)]
    gaps = disjoint(20)
    outside, inside = split_at_gaps(intervals, {"c": gaps})

    def bases(pieces: list[Interval] | list[tuple[int, int]]) -> list[int]:
        return [base for piece in pieces for base in range(*(piece[1:3] if len(piece) > 2 else piece))]

    assert sorted(bases(outside) + bases(inside)) == bases(intervals)
    assert set(bases(inside)) == set(bases(intervals)) & set(bases(gaps))
    assert all(piece.start < piece.end for piece in outside + inside)

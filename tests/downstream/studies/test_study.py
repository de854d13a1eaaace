"""The studies find planted effects, find none where there are none, and run from the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pyBigWig
import pytest

from dnachunker.cli import main
from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.annotations import read_features
from dnachunker.downstream.studies.chunk_lengths import length_table
from dnachunker.downstream.studies.clinical_indels import clinical_deletion, clinical_insertion
from dnachunker.downstream.studies.cutters import Cuts, KmerCutter, cut_all, train_bpe
from dnachunker.downstream.studies.enrichment import enrichment_table
from dnachunker.downstream.studies.motifs import fragmentation_table, occurrences, read_motifs
from dnachunker.downstream.studies.rotations import Rotated, draw_shifts
from dnachunker.downstream.studies.species import consistency_table
from dnachunker.downstream.studies.stability import stability_table
from dnachunker.downstream.studies.tables import with_corrected
from dnachunker.downstream.studies.track import track_table
from dnachunker.foundations.failures import BadInput

JASPAR = """>MA1 ONE
A [ 0 0 50 0 0 0 50 0 ]
C [ 0 0 0 50 0 0 0 0 ]
G [ 50 0 0 0 50 0 0 0 ]
T [ 0 50 0 0 0 50 0 50 ]
"""


def random_letters(length: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def random_cuts(length: int, share: float, seed: int) -> np.ndarray:
    starts = np.random.default_rng(seed).random(length) < share
    starts[0] = True
    return starts


class ContextCutter:
    """Cuts in the middle of every 6-mer without T, so cuts depend on the letters only."""

    def cut(self, letters: str) -> Cuts:
        starts = np.zeros(len(letters), bool)
        for at in range(len(letters) - 6):
            starts[at + 3] = "T" not in letters[at : at + 6].upper()
        starts[0] = True
        return {"context": starts}


def test_borders_with_cuts_are_enriched_and_others_are_not() -> None:
    region = Region("c", 1000, 21_000)
    random, planted = random_cuts(20_000, 0.1, 0), random_cuts(20_000, 0.1, 1)
    strands = np.random.default_rng(2).choice(["+", "-"], 60)
    features = [Feature("c", 1200 + 300 * i, 1300 + 300 * i, "exon", "e", s) for i, s in enumerate(strands)]
    for feature in features:  # at the five-prime border, and five bases into the feature
        at = (feature.start if feature.strand == "+" else feature.end) - 1000
        planted[[at, at + (5 if feature.strand == "+" else -5)]] = True
    cuts = [{"random": random, "planted": planted}]
    rows, profiles = enrichment_table([region], cuts, features, radius=10, permutations=199, seed=0)
    found = {(row["tokens"], row["border"]): row for row in rows}
    assert found["planted", "5'"]["enrichment"] > 1.5
    assert found["planted", "5'"]["p"] == 1 / 200
    assert profiles["planted", "exon 5'"].argsort()[-2:].tolist() in ([10, 15], [15, 10])
    for key in (("random", "5'"), ("random", "3'"), ("planted", "3'")):
        assert found[key]["p"] > 0.01
        assert found[key]["borders"] == 60


def test_starts_inside_intervals_after_each_rotation_are_those_of_starts_that_were_moved() -> None:
    rng = np.random.default_rng(0)
    starts = [random_cuts(length, 0.3, length) for length in (40, 1, 97)]
    intervals = [np.sort(rng.integers(0, len(part) + 1, (9, 2)), axis=1) for part in starts]
    shifts = draw_shifts([len(part) for part in starts], 60, 0)
    assert not shifts[0].any()
    assert shifts[1:, 2].min() >= 1
    moved = [
        sum(
            np.roll(part, shift)[low:high].sum()
            for part, shift, pairs in zip(starts, row, intervals, strict=True)
            for low, high in pairs
        )
        for row in shifts
    ]
    assert Rotated.of(starts, shifts).inside(intervals).tolist() == moved


def test_classes_with_longer_tokens_are_found() -> None:
    region = Region("c", 0, 20_000)
    letters = [random_letters(10_000, 0).lower() + random_letters(10_000, 1)]
    starts = np.concatenate([random_cuts(10_000, 0.05, 0), random_cuts(10_000, 0.1, 1)])
    features = [Feature("c", 12_000, 13_000, "exon", "e", "+"), Feature("d", 0, 500, "exon", "e", "+")]
    starts[12_000:13_000] = np.arange(1000) % 4 == 0
    rows = length_table([region], letters, [{"way": starts}], features, permutations=99, seed=0)
    found = {row["class"]: row for row in rows}
    assert found["exon"]["bases per token"] == 4.0
    assert found["exon"]["median length"] == 4.0
    assert found["soft-masked"]["bases per token"] == pytest.approx(20, rel=0.15)
    assert found["elsewhere"]["bases"] == 9_000
    assert found["elsewhere"]["bases per token"] == pytest.approx(10, rel=0.1)
    assert found["exon"]["p"] < 0.05


def test_motifs_are_found_on_both_strands_and_their_tokens_counted(tmp_path: Path) -> None:
    (tmp_path / "m.jaspar").write_text(JASPAR)
    (motif,) = read_motifs(tmp_path / "m.jaspar")
    letters = "A" * 20 + "GTACGTAT" + "A" * 20 + "ATACGTAC" + "C" * 20 + "gtacgtat" + "NGTACNTAT"
    assert motif.name == "ONE"
    assert occurrences(motif, letters, 1e-4).tolist() == [20, 48, 76]
    starts = np.zeros(len(letters), bool)
    starts[[0, 20, 24, 28, 50, 52]] = True  # 20 and 28 are the borders of the first occurrence, not cuts in it
    cuts = [{"way": starts}]
    (row,) = fragmentation_table([letters], cuts, [motif], p=1e-4, permutations=19, seed=0)
    assert row["occurrences"] == 3
    assert row["tokens per occurrence"] == pytest.approx((2 + 3 + 1) / 3)
    assert row["intact"] == pytest.approx(1 / 3)
    one = ">M 1\n" + "".join(f"{letter} [ 1 2 ]\n" for letter in "ACGT")
    for text in (
        JASPAR.replace("\nT [", "\nU ["),
        *(one.replace("A [ 1", f"A [ {number}") for number in ("nan", "inf", "1e999", "-1", "\u0663")),
        one.replace(" 1 2 ", " "),
        one.replace(">M 1", ">"),
    ):
        (tmp_path / "m.jaspar").write_text(text)
        with pytest.raises(BadInput, match="not a JASPAR count matrix: >NAME, then rows A, C, G, T"):
            read_motifs(tmp_path / "m.jaspar")


def test_a_meme_file_gives_the_same_occurrences_as_its_counts_in_jaspar_format(tmp_path: Path) -> None:
    (tmp_path / "m.jaspar").write_text(JASPAR)
    (wanted,) = read_motifs(tmp_path / "m.jaspar")
    rows = "\n".join(" ".join(str(value / 50) for value in row) for row in wanted.counts.T)
    head = "MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\nMOTIF MA1 ONE\n\n"
    meme = f"{head}letter-probability matrix: alength= 4 w= 8 nsites= 50 E= 0\n{rows}\n"
    (tmp_path / "m.meme").write_text(meme)
    (motif,) = read_motifs(tmp_path / "m.meme")
    assert motif.name == "ONE"
    np.testing.assert_allclose(motif.counts, wanted.counts)
    for wrong in (meme.replace("w= 8", "w= 9"), meme.replace("alength= 4", "alength= 20"), meme.replace("0.0", "x", 1)):
        (tmp_path / "m.meme").write_text(wrong)
        with pytest.raises(BadInput, match="MOTIF MA1 ONE.*not a MEME motif"):
            read_motifs(tmp_path / "m.meme")


def test_a_share_p_of_random_sequence_is_an_occurrence(tmp_path: Path) -> None:
    (tmp_path / "m.jaspar").write_text(JASPAR.replace("[ 0 0 50", "[ 20 9 50").replace("[ 50 0 0", "[ 50 20 20"))
    (motif,) = read_motifs(tmp_path / "m.jaspar")
    text = random_letters(400_000, 0)
    found = len(occurrences(motif, text, 1e-3)) / len(text)
    (tmp_path / "short.jaspar").write_text(
        ">M S\n" + "".join(f"{x} [ {9 * (x == 'G')} {9 * (x == 'A')} ]\n" for x in "ACGT")
    )
    assert occurrences(read_motifs(tmp_path / "short.jaspar")[0], "CCGACCTCCC", 1e-4).tolist() == [2, 6]
    assert 0.5e-3 < found < 2.2e-3  # on either of two strands; scores are discrete, so p is not always used up


def test_what_follows_a_track_is_found_and_what_follows_its_gc_alone_is_not_beyond_it() -> None:
    rng = np.random.default_rng(0)
    gc = np.clip(np.cumsum(rng.normal(0, 0.01, 20_000)) + 0.5, 0.2, 0.8)
    gc = np.where(np.abs(np.sin(np.arange(20_000) / 900)) > 0.5, 0.7, 0.3) * 0.8 + gc * 0.2
    letters = "".join(np.where(rng.random(20_000) < gc, rng.choice(list("GC"), 20_000), rng.choice(list("AT"), 20_000)))
    own = np.repeat(rng.random(200), 100)  # of the track, beyond GC
    track = gc * 3 + own
    track[5_000:5_200] = np.nan
    measures = {
        "own": (rng.random(20_000) < 0.1 + 0.3 * own).astype(float),
        "gc": (rng.random(20_000) < gc / 2).astype(float),
        "neither": (rng.random(20_000) < 0.2).astype(float),
    }
    rows = track_table(
        [letters], [track], {name: [values] for name, values in measures.items()}, permutations=199, seed=0
    )
    p = {(row["tokens"], row["adjusted for"]): row["p"] for row in rows}
    assert p["own", "GC"] == p["own", "none"] == p["gc", "none"] == 1 / 200
    assert min(p["gc", "GC"], p["neither", "GC"], p["neither", "none"]) > 0.01
    direct = np.corrcoef(measures["own"][~np.isnan(track)], track[~np.isnan(track)])[0, 1]
    assert rows[0]["correlation"] == pytest.approx(direct, abs=1e-9)


def test_p_values_are_corrected_for_the_number_of_rows() -> None:
    rows = with_corrected([{"p": p, "x": 1} for p in (0.01, 0.04, 0.03, 0.5)])
    assert [row["p corrected"] for row in rows] == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert list(rows[0]) == ["p", "p corrected", "x"]


def test_kmers_break_under_shifts_and_a_cut_by_context_does_not() -> None:
    windows = [random_letters(200, seed) for seed in range(12)]
    rows = stability_table(windows, [KmerCutter(6), ContextCutter()], seed=0)
    found = {(row["change"], row["tokens"]): row for row in rows}
    assert found["SNV", "6-mer"]["Jaccard"] == 1.0
    assert found["shift", "6-mer"]["Jaccard"] == 0.0
    assert 0.25 < found["deletion", "6-mer"]["Jaccard"] < 0.45  # all before the change, none after it
    assert found["clinical deletion", "6-mer"]["beyond"] < 0.75
    for change in ("SNV", "insertion", "deletion", "clinical insertion", "clinical deletion", "shift"):
        assert found[change, "context"]["Jaccard"] > 0.85
        assert found[change, "context"]["beyond"] == 1.0


class MarkCutter:
    """Cuts at one base that occurs once."""

    def cut(self, letters: str) -> Cuts:
        return {"mark": np.array([letter == "N" for letter in letters])}


def test_a_cut_right_behind_a_deletion_is_still_there() -> None:
    rows = stability_table(["A" * 100 + "CN" + "A" * 98], [MarkCutter()], seed=0)
    assert {row["change"]: row["Jaccard"] for row in rows} == dict.fromkeys(
        ("SNV", "insertion", "deletion", "clinical insertion", "clinical deletion", "shift"), 1.0
    )


def test_clinical_indels_have_the_published_lengths_and_contexts() -> None:
    rng = np.random.default_rng(0)
    letters = [random_letters(400, seed) for seed in range(3000)]
    deletions = [(text, clinical_deletion(text, rng)) for text in letters]
    insertions = [(text, clinical_insertion(text, rng)) for text in letters]
    removed = np.array([change.removed for _, change in deletions])
    added = np.array([len(change.added) for _, change in insertions])
    assert (removed == 1).mean() == pytest.approx(0.48, abs=0.03)
    assert (added == 1).mean() == pytest.approx(0.66, abs=0.03)
    assert max(removed) == max(added) == 20
    beside = np.array(
        [
            text[change.start :][: min(3, change.removed)]
            == text[change.start + change.removed :][: min(3, change.removed)]
            for text, change in deletions
        ]
    )
    for shortest, longest, share in ((1, 1, 0.594), (2, 2, 0.713), (3, 20, 0.40)):
        assert beside[(removed >= shortest) & (removed <= longest)].mean() == pytest.approx(share, abs=0.06)
    copies = np.array([text[: change.start].endswith(change.added) for text, change in insertions])
    assert copies[added > 2].mean() == pytest.approx(0.75, abs=0.07)
    text, change = deletions[0]
    assert change.apply(text) == text[: change.start] + text[change.start + change.removed :]


def test_genomes_agree_where_sequence_decides_and_not_where_position_does() -> None:
    letters = {"one": [random_letters(60_000, 0)], "two": [random_letters(60_000, 1)]}
    cutters = [KmerCutter(6), ContextCutter()]
    cuts = {name: [cut_all(cutters, text) for text in texts] for name, texts in letters.items()}
    rows = {row["tokens"]: row for row in consistency_table(letters, cuts, k=4, seen=20)}
    assert rows["context"]["agreement"] > 0.9
    assert abs(rows["6-mer"]["agreement"]) < 0.3
    assert rows["6-mer"]["bases per token"] == 6.0


def test_bpe_learns_what_repeats() -> None:
    letters = "GATTACA" * 200 + random_letters(2000, 3)
    cutter = train_bpe([letters], 64)
    assert cutter.tokenizer.get_vocab_size() <= 64
    starts = cutter.cut("GATTACAGATTACA")["BPE"]
    assert starts[0]
    assert starts.sum() <= 5
    assert cutter.cut("gattacaN")["BPE"][-1]


def test_annotations_from_each_format(tmp_path: Path) -> None:
    texts = {
        "a.bed": "track name=x\nc\t10\t20\tpeak\t0\t-\n",
        "a.gtf": 'c\tx\texon\t11\t20\t.\t-\t.\tgene_id "G1"; gene_name "ABC";\n',
        "a.gff3": "##gff-version 3\nc\tx\texon\t11\t20\t.\t-\t.\tID=1;Name=ABC\n##FASTA\n>c\nACGT\n",
        "a.out": "   SW   perc\nscore  div.\n\n  463 1.3 0.6 1.7 c 11 20 (99) C AluY SINE/Alu (0) 9 1 1\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (found,) = read_features(tmp_path / name, {"c": 100})
        assert (found.contig, found.start, found.end, found.strand) == ("c", 10, 20, "-")
        assert found.kind == {"a.bed": "peak", "a.out": "SINE/Alu"}.get(name, "exon")
        assert read_features(tmp_path / name, {"c": 100}, [Region("c", 20, 30)]) == []
    (tmp_path / "a.bed").write_text("c\t1\n")
    with pytest.raises(BadInput, match=r"a\.bed, line 1: not `contig start end`"):
        read_features(tmp_path / "a.bed", {"c": 100})


def test_the_command_writes_tables_and_figures(
    export: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "genes.bed").write_text("chra\t300\t500\texon\t0\t+\nchra\t900\t1100\texon\t0\t-\n")
    with pyBigWig.open(str(tmp_path / "track.bw"), "w") as wig:
        wig.addHeader([("a", 1000)])
        wig.addEntries("a", 0, values=[number / 7 for number in range(1000)], span=1, step=1)
    (tmp_path / "other.fa").write_text(f">o\n{random_letters(2000, 5)}\n")
    rng = np.random.default_rng(0)
    (tmp_path / "many.jaspar").write_text(
        "".join(
            f">M{n} motif{n}\n" + "".join(f"{x} [ {' '.join(map(str, rng.integers(1, 9, 4)))} ]\n" for x in "ACGT")
            for n in range(23)
        )
    )
    where = ["--model", str(export), "--fasta", str(fasta), "--bpe-vocabulary", "100", "--permutations", "9"]
    for kind, more, rows in (
        ("lengths", ("--annotation", str(tmp_path / "genes.bed")), 4 * 3),
        ("enrichment", ("--annotation", str(tmp_path / "genes.bed"), "--region", "a"), 4 * 2),
        ("motifs", ("--motifs", str(tmp_path / "many.jaspar")), 4 * 23),
        ("stability", ("--samples", "3"), 6 * 4),
        ("species", ("--other", str(tmp_path / "other.fa")), 4),
        ("track", ("--track", str(tmp_path / "track.bw"), "--region", "a"), 5 * 2),
    ):
        output = tmp_path / kind
        assert main(["study", kind, *where, "--output", str(output), *more]) == 0, capsys.readouterr().err
        table = list(csv.DictReader((output / "table.csv").open()))
        assert len(table) == rows
        assert {row["tokens"] for row in table} - {"loss"} == {"stage 0", "stage 1", "6-mer", "BPE"}
        assert (output / "figure.svg").read_text().rstrip().endswith("</svg>")
        assert (output / "figure.svg").read_text().count("<!-- motif") == (20 if kind == "motifs" else 0)
        assert json.loads((output / "options.json").read_text())["kind"] == kind
    assert capsys.readouterr().err.count("genes.bed: contigs are matched by another spelling: chra is a\n") == 2
    wrong = ["study", "lengths", *where, "--output", str(tmp_path / "out"), "--annotation", str(tmp_path / "wrong.bed")]
    (tmp_path / "wrong.bed").write_text("chr1\t300\t500\texon\n")
    assert main(wrong) == 2
    assert "the file names chr1, the genome has a" in capsys.readouterr().err
    assert main(["study", "motifs", *where, "--output", str(tmp_path / "out")]) == 2
    assert "--motifs is missing" in capsys.readouterr().err
    assert main(["study", "track", *where, "--output", str(tmp_path / "out")]) == 2
    assert "--track is missing" in capsys.readouterr().err
    for name, message in (("genes.bed", "not readable as a bigWig"), ("track.bw", "has no value in these regions")):
        more = ["--track", str(tmp_path / name), "--region", "b"]
        assert main(["study", "track", *where, "--output", str(tmp_path / "out"), *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["study", "enrichment", *where, "--output", str(tmp_path / "out")]) == 2
    assert "--annotation is missing" in capsys.readouterr().err
    (tmp_path / "long.jaspar").write_text(">M 1\n" + "".join(f"{letter} [ {'1 ' * 3000}]\n" for letter in "ACGT"))
    (tmp_path / "empty.bed").write_text("#chrom\n")
    for kind, option, name, message in (
        ("motifs", "--motifs", "long.jaspar", "motifs: nothing to count in these regions"),
        ("lengths", "--annotation", "empty.bed", "empty.bed: lists no interval"),
    ):
        assert main(["study", kind, *where, option, str(tmp_path / name), "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

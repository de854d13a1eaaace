"""`dnachunker score-variants`: the right outcome for every line, the same score from either strand."""

import gzip
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from dnachunker.cli import main
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.downstream.exported import Exported
from dnachunker.downstream.variants import likelihoods
from dnachunker.downstream.variants.alleles import Alleles, widen
from dnachunker.downstream.variants.likelihoods import Scorer
from dnachunker.downstream.variants.reference import Reference, look

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
COMPLEMENT = str.maketrans("ACGTNacgtn", "TGCANtgcan")


def opposite(letters: str) -> str:
    return letters.translate(COMPLEMENT)[::-1]


def score(export: Path, fasta: Path, vcf: Path, output: Path, *more: str) -> int:
    where = ["--model", str(export), "--fasta", str(fasta), "--vcf", str(vcf), "--output", str(output)]
    return main(["score-variants", *where, "--context", "200", *more])


def read_scores(path: Path) -> list[dict[str, list[str]]]:
    rows = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return [{k: v.split(",") for k, _, v in (item.partition("=") for item in row[7].split(";"))} for row in rows]


def other(letter: str) -> str:
    return "ACGT"[("ACGT".index(letter.upper()) + 1) % 4]


def made_up_variants(contig: str, letters: str, count: int, seed: int) -> list[tuple[str, int, str, str]]:
    """SNVs, deletions, insertions, swaps of several bases; positions away from N, 1-based."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        at = int(rng.integers(150, len(letters) - 150))
        while "N" in letters[at - 2 : at + 12].upper():
            at = int(rng.integers(150, len(letters) - 150))
        ref = letters[at]
        if number % 4 == 1:
            found.append((contig, at + 1, letters[at : at + 1 + number % 7 + 1], ref))
        elif number % 4 == 2:
            found.append((contig, at + 1, ref, ref + "".join(rng.choice(list("ACGT"), 1 + number % 5))))
        elif number % 4 == 3:
            found.append((contig, at + 1, letters[at : at + 3], "".join(map(other, letters[at : at + 3]))))
        else:
            found.append((contig, at + 1, ref, other(ref)))
    return found


def from_the_other_strand(contig: str, at: int, ref: str, alt: str, letters: str) -> tuple[str, int, str, str]:
    """The same variant on the reverse complement, as a VCF writes it there: with the base before it as the anchor."""
    length = len(letters)
    if len(ref) == len(alt):
        return contig, length - (at - 1 + len(ref)) + 1, opposite(ref), opposite(alt)
    follows = letters[at - 1 + len(ref)]  # the anchor lies on the other side
    ref, alt = ref[1:] + follows, alt[1:] + follows
    return contig, length - (at + len(ref)) + 1, opposite(ref), opposite(alt)


def as_vcf(rows: list[tuple[str, int, str, str]]) -> str:
    return HEADER + "".join(f"{contig}\t{at}\t.\t{ref}\t{alt}\t.\t.\t.\n" for contig, at, ref, alt in rows)


def test_both_strands_give_the_same_scores(export: Path, fasta: Path, tmp_path: Path) -> None:
    letters = {r.split("\n")[0]: "".join(r.split("\n")[1:]) for r in fasta.read_text().split(">")[1:]}["a"]
    rows = made_up_variants("a", letters, 24, seed=2)
    turned = [from_the_other_strand(*row, letters) for row in rows]
    (tmp_path / "turned.fa").write_text(f">a\n{opposite(letters)}\n")
    for name, genome, variants in (("one", fasta, rows), ("two", tmp_path / "turned.fa", turned)):
        (tmp_path / f"{name}.vcf").write_text(as_vcf(variants))
        assert score(export, genome, tmp_path / f"{name}.vcf", tmp_path / f"{name}.out.vcf") == 0
    pairs = zip(*(read_scores(tmp_path / f"{name}.out.vcf") for name in ("one", "two")), strict=True)
    for ours, theirs in pairs:
        assert ours["DNC_STATUS"] == theirs["DNC_STATUS"] == ["scored"]
        for field in ("DNC_LLR", "DNC_SHIFT0", "DNC_SHIFT1"):
            assert float(ours[field][0]) == pytest.approx(float(theirs[field][0]), abs=1e-5)
    ratios = [float(row["DNC_LLR"][0]) for row in read_scores(tmp_path / "one.out.vcf")]
    assert np.std(ratios) > 0.01


def test_an_snv_is_the_masked_models_ratio(export: Path, fasta: Path, tmp_path: Path) -> None:
    letters = "".join(fasta.read_text().split(">")[2].split("\n")[1:])
    row = ("b", 151, letters[150], other(letters[150]))
    (tmp_path / "in.vcf").write_text(as_vcf([row]))
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "out.vcf") == 0
    model = AutoModelForMaskedLM.from_pretrained(export, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=False)
    window = letters[51:250]  # 99 bases to either side
    ratios = []
    for strand, ref, alt in ((window, row[2], row[3]), (opposite(window), opposite(row[2]), opposite(row[3]))):
        ids = tokenizer(strand, return_tensors="pt", return_token_type_ids=False)
        ids["input_ids"][0, 99] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(**ids).logits[0, 99]
        ratios.append(
            float(logits[tokenizer.convert_tokens_to_ids(alt)] - logits[tokenizer.convert_tokens_to_ids(ref)])
        )
    assert float(read_scores(tmp_path / "out.vcf")[0]["DNC_LLR"][0]) == pytest.approx(np.mean(ratios), abs=1e-5)
    # scoring a scored file replaces its fields
    assert score(export, fasta, tmp_path / "out.vcf", tmp_path / "again.vcf", "--radius", "50") == 0
    first, again = ((tmp_path / name).read_text().splitlines() for name in ("out.vcf", "again.vcf"))
    assert len(first) == len(again)
    assert again[-1].count("DNC_LLR") == again[-1].count("DNC_STATUS") == 1
    (made,) = [line for line in again if line.startswith("##dnachunker=")]
    assert made.endswith(',fasta="genome.fa",context=200,radius=50,longest=50>')


@pytest.fixture
def windows_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of windows in each pass of a network, as passes happen."""
    found: list[int] = []
    batch = Exported.batch
    monkeypatch.setattr(Exported, "batch", lambda self, ids: found.append(len(ids)) or batch(self, ids))
    return found


@pytest.mark.parametrize("lines", [1, 3])
def test_alleles_at_one_position_share_their_windows(
    export: Path, fasta: Path, tmp_path: Path, windows_run: list[int], lines: int
) -> None:
    letters = "".join(fasta.read_text().split(">")[2].split("\n")[1:])
    alts = [base for base in "ACGT" if base != letters[150]]
    rows = [("b", 151, letters[150], alt) for alt in (alts if lines == 3 else [",".join(alts)])]
    (tmp_path / "in.vcf").write_text(as_vcf(rows))
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "out.vcf") == 0
    assert sum(windows_run) == 2 + 2 * 4  # one masked window, and one for each of four haplotypes, from both strands
    windows_run.clear()
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "brief.vcf", "--no-shifts") == 0
    assert sum(windows_run) == 2
    assert "SHIFT" not in (tmp_path / "brief.vcf").read_text()
    found, brief = ([v for row in read_scores(tmp_path / f"{name}.vcf") for v in row["DNC_LLR"]]
                    for name in ("out", "brief"))  # fmt: skip
    assert found == brief
    model = AutoModelForMaskedLM.from_pretrained(export, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=False)

    def cuts(base: str, stage: int, strand: int) -> set[int]:
        window = letters[51:150] + base + letters[151:250]
        with torch.no_grad():
            output = model(**tokenizer(window if strand == 0 else opposite(window), return_tensors="pt"))
        return {int(at) for at in output.boundaries[stage][0].nonzero() if at}  # the allele is one base, in the middle

    for number, alt in enumerate(alts):
        for stage in range(2):
            pairs = [(cuts(letters[150], stage, strand), cuts(alt, stage, strand)) for strand in range(2)]
            expected = np.mean([1 - len(one & two) / len(one | two) for one, two in pairs])
            shifts = [v for row in read_scores(tmp_path / "out.vcf") for v in row[f"DNC_SHIFT{stage}"]]
            assert float(shifts[number]) == pytest.approx(expected, abs=1e-6)


def test_a_line_of_many_alleles_is_scored_piece_by_piece(
    export: Path, fasta: Path, tmp_path: Path, windows_run: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = "".join(fasta.read_text().split(">")[2].split("\n")[1:])
    alts = [letters[150] + "".join(more) for more in itertools.product("ACGT", repeat=2)]
    held: list[int] = []
    run = Scorer._run
    monkeypatch.setattr(Scorer, "_run", lambda self, *work: held.append(len(work[1])) or run(self, *work))
    for size, name in ((64, "whole"), (5, "pieces")):
        monkeypatch.setattr(likelihoods, "_PIECE_VARIANTS", size)
        (tmp_path / "in.vcf").write_text(as_vcf([("b", 151, letters[150], ",".join(alts))]))
        assert score(export, fasta, tmp_path / "in.vcf", tmp_path / f"{name}.vcf") == 0
    assert max(held[:2]) > 30 >= max(held[2:])
    whole, pieces = (read_scores(tmp_path / f"{name}.vcf")[0] for name in ("whole", "pieces"))
    for field in ("DNC_LLR", "DNC_SHIFT0", "DNC_SHIFT1"):
        assert [float(v) for v in whole[field]] == pytest.approx([float(v) for v in pieces[field]], abs=2e-6)


def test_an_indel_in_a_repeat_scores_the_same_at_every_position() -> None:
    contig = "GATTACACACACAGGT"

    def fetch(start: int, end: int) -> str:
        return contig[start:end]

    # deletion of one CA unit at every possible position, and insertion of one
    spellings = [(4, contig[4:7], contig[4]), (6, contig[6:9], contig[6]), (10, "ACA", "A")]
    found = {widen(*spelling, fetch, len(contig), 50) for spelling in spellings}
    assert found == {Alleles(4, 13, "ACACACACA", "ACACACA")}
    inserted = {
        widen(at, contig[at], contig[at] + unit, fetch, len(contig), 50) for at, unit in ((4, "CA"), (12, "CA"))
    }
    assert inserted == {Alleles(4, 13, "ACACACACA", "ACACACACACA")}
    assert widen(1, "AT", "AG", fetch, len(contig), 50) == Alleles(2, 3, "T", "G")
    assert widen(4, contig[4:7], contig[4], fetch, len(contig), 5) is None
    # widening changes neither haplotype
    for start, size, alt in itertools.product(range(1, 12), (1, 2, 3), ("", "A", "CA", "GG")):
        haplotype = contig[:start] + contig[start] + alt + contig[start + size :]
        if haplotype == contig:
            continue
        alleles = widen(start, contig[start : start + size], contig[start] + alt, fetch, len(contig), 50)
        assert alleles is not None
        assert contig[: alleles.start] + alleles.alternative + contig[alleles.end :] == haplotype
        assert contig[alleles.start : alleles.end] == alleles.reference


def test_alleles_that_fill_a_contig_leave_nothing_to_compare_with(tmp_path: Path) -> None:
    (tmp_path / "tiny.fa").write_text(">c\nAAAAAAAA\n>d\nAAAAAAAACG\n")
    with Genome(tmp_path / "tiny.fa") as opened:
        genome = Reference(opened, {"c": "c", "d": "d"})
        for contig, status in (("c", "too_long"), ("d", "scored")):
            assert look([contig, "1", ".", "AAA", "A"], "A", genome, 50, 200)[0] == status


def test_every_line_has_its_outcome(
    export: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = "".join(fasta.read_text().split(">")[1].split("\n")[1:])
    right, wrong = letters[899], other(letters[899])
    lines = [
        (("a", 900, right, wrong), ["scored"]),
        (
            ("a", 900, right.lower(), f"{wrong},{right}{wrong},*,<DEL>"),
            ["scored", "scored", "no_sequence", "no_sequence"],
        ),
        (("a", 750, letters[749], other(letters[749])), ["scored"]),  # soft-masked in the genome
        (("a", 900, wrong, right), ["reference_mismatch"]),
        (("a", 1510, "N", "A"), ["reference_n"]),
        (("a", 1499, letters[1498], other(letters[1498])), ["scored"]),  # N two bases on
        (("a", 900, right, right), ["no_change"]),
        (("a", 900, letters[899:980], right), ["too_long"]),
        (("a", 2_601, "A", "C"), ["outside_contig"]),
        (("z", 5, "A", "C"), ["unknown_contig"]),
        (("b", 1, "".join(fasta.read_text().split(">")[2].split("\n")[1])[0], "AC"), ["scored"]),
        *((("a", 300 + i, letters[299 + i], other(letters[299 + i])), ["scored"]) for i in range(10)),
    ]
    text = as_vcf([row for row, _ in lines]).replace("\t.\t.\t.\n", "\t.\tPASS\tAF=0.1\n")
    (tmp_path / "in.vcf").write_text(text.replace("\n", "\r\n"))
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "out.vcf") == 0
    said = capsys.readouterr()
    rows = read_scores(tmp_path / "out.vcf")
    for row, (_, outcome) in zip(rows, lines, strict=True):
        assert row["DNC_STATUS"] == outcome
        assert row["AF"] == ["0.1"]
        for status, ratio, shift in zip(outcome, row["DNC_LLR"], row["DNC_SHIFT1"], strict=True):
            assert (status == "scored") == (ratio != ".") == (shift != ".")
            assert ratio == "." or math.isfinite(float(ratio))
    assert f"line 6: a:900 {wrong}>{right}: reference_mismatch: the genome has {right}" in said.err
    assert "scored 16" in said.out


@pytest.mark.slow
def test_two_hundred_variants_of_human_chromosome_2(export: Path, real_genomes: Path, tmp_path: Path) -> None:
    packed = real_genomes / "hg38.chr2_1-2333275.fa.gz"
    letters = "".join(gzip.decompress(packed.read_bytes()).decode().split("\n")[1:])
    rows = made_up_variants("chr2", letters, 180, seed=5)
    rows = [(c, at, ref.upper(), alt.upper()) for c, at, ref, alt in rows]
    expected = [["scored"]] * 180
    assert letters[9_999] == "N" != letters[10_000]
    for at in range(10_001, 10_006):  # right after ten thousand N, which fill less than half of the window
        rows.append(("chr2", at, letters[at - 1].upper(), other(letters[at - 1])))
        expected.append(["scored"])
    for at in (10, 5_000):
        rows.append(("chr2", at, "N", "A"))
        expected.append(["reference_n"])
    for at in range(50_000, 50_005):
        rows.append(("chr2", at, other(letters[at - 1]), letters[at - 1].upper()))
        expected.append(["reference_mismatch"])
    for at in range(60_000, 60_005):
        alts = [base for base in "ACGT" if base != letters[at - 1].upper()]
        rows.append(("chr2", at, letters[at - 1].upper(), ",".join([*alts, alts[0] + "AT"])))
        expected.append(["scored"] * 4)
    rows += [
        ("chr2", 2_333_276, "A", "C"),
        ("chr2", 2_333_275, letters[-1].upper() + "A", "C"),
        ("2", 60_000, "A", "C"),
    ]
    expected += [["outside_contig"], ["outside_contig"], ["unknown_contig"]]
    assert len(rows) == 200
    (tmp_path / "in.vcf").write_text(as_vcf(rows))
    assert score(export, packed, tmp_path / "in.vcf", tmp_path / "out.vcf") == 0
    found = read_scores(tmp_path / "out.vcf")
    assert [row["DNC_STATUS"] for row in found] == expected
    (tmp_path / "turned.fa").write_text(f">chr2\n{opposite(letters)}\n")
    turned = [from_the_other_strand(*row, letters.upper()) for row in rows[:180]]
    (tmp_path / "turned.vcf").write_text(as_vcf(turned))
    assert score(export, tmp_path / "turned.fa", tmp_path / "turned.vcf", tmp_path / "turned.out.vcf") == 0
    for ours, theirs in zip(found, read_scores(tmp_path / "turned.out.vcf"), strict=False):
        for field in ("DNC_LLR", "DNC_SHIFT0", "DNC_SHIFT1"):
            assert float(ours[field][0]) == pytest.approx(float(theirs[field][0]), abs=1e-5)


def test_contigs_are_matched_by_another_spelling_and_written_as_they_were(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = "ACGGTTCATGCAAT" * 30
    (tmp_path / "g.fa").write_text(f">chr1\n{letters}\n>chr2\n{letters[5:]}\n")
    rows = made_up_variants("chr1", letters, 4, seed=1)
    (tmp_path / "same.vcf").write_text(as_vcf(rows))
    (tmp_path / "other.vcf").write_text(as_vcf([("1", *row[1:]) for row in rows]))
    for name in ("same", "other"):
        assert score(export, tmp_path / "g.fa", tmp_path / f"{name}.vcf", tmp_path / f"{name}.out.vcf") == 0
    said = f"{tmp_path}/other.vcf: contigs are matched by another spelling: 1 is chr1\n"
    assert capsys.readouterr().err.count(said) == 1
    same, found = ((tmp_path / f"{name}.out.vcf").read_text().split("#CHROM")[1] for name in ("same", "other"))
    assert "DNC_STATUS=scored" in found
    assert found == same.replace("\nchr1\t", "\n1\t")


def test_a_vcf_of_another_assembly_or_none_is_refused(
    export: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vcf, output = tmp_path / "in.vcf", tmp_path / "out.vcf"
    long = "".join(f"##contig=<ID=chr{number}>\n" for number in range(1_100))
    first = fasta.read_text()[3]
    known = ("a", 1, first, other(first))
    for text, message in (
        (as_vcf([("1", 900, "A", "C")] * 3), "in.vcf: no contig of the genome: the file names 1, the genome has a"),
        (as_vcf([("a", 2, "N", "C")] * 3), "3 of the first 3 lines contradict genome.fa"),
        (long + as_vcf([known, *[("1", 900, "A", "C")] * 3]), "3 of the first 4 lines contradict genome.fa"),
        (HEADER, "holds no records"),
        ("#hello\n", "in.vcf: has no #CHROM line; this is not VCF"),
        (as_vcf([("a", 900, "A", "C")]).replace("#CHROM", "#CHR"), "line 3: a record before the #CHROM line"),
        *(
            (HEADER + f"{record}\t.\t.\t.\n", f"line 3: not a VCF record: {reason}")
            for record, reason in (
                ("a\tx\t.\tA\tC", "'x' is not a position (POS)"),
                ("a\t-1\t.\tA\tC", "'-1' is not a position (POS)"),
                ("a\t٣\t.\tA\tC", "'٣' is not a position (POS)"),
                (f"a\t{'1' * 5000}\t.\tA\tC", f"'{'1' * 40}'... is not a position (POS)"),
                ("a\t1\t.\t\tC", "REF is empty"),
                ("\t1\t.\tA\tC", "CHROM is empty"),
                ("a\x1b[2J\t1\t.\tA\tC", "the name 'a\\x1b[2J' holds a control character"),
                ("a 1 . A C", "4 columns between tabs; the #CHROM line has 8"),
            )
        ),
    ):
        vcf.write_text(text)
        assert score(export, fasta, vcf, output) == 2
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == [vcf]


def test_a_causal_model_is_refused_and_leaves_nothing(
    causal: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fasta.read_text()[3]
    (tmp_path / "in.vcf").write_text(as_vcf([("a", 1, first, other(first))]))
    assert score(causal, fasta, tmp_path / "in.vcf", tmp_path / "out.vcf") == 2
    assert "this model is causal" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.vcf"]


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_file(export: Path, fasta: Path, tmp_path: Path) -> None:
    letters = "".join(fasta.read_text().split(">")[1].split("\n")[1:])
    (tmp_path / "in.vcf").write_text(as_vcf(made_up_variants("a", letters, 40, seed=3)))
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "whole.vcf") == 0
    # dies in the middle of the third group's lines, as after a full disk or a kill
    code = f"""
import os, sys
from dnachunker.downstream.variants import score_vcf
write = score_vcf._Partial.write
calls = []
def dying(self, lines, done):
    calls.append(done)
    if len(calls) == 4:
        with self._text.open("ab") as file:
            file.write(lines[0][:10].encode())
        os._exit(9)
    write(self, lines, done)
score_vcf._Partial.write = dying
from dnachunker.cli import main
main(["score-variants", "--model", {str(export)!r}, "--fasta", {str(fasta)!r}, "--context", "200",
                 "--vcf", {str(tmp_path / "in.vcf")!r}, "--output", {str(tmp_path / "out.vcf")!r}])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert not (tmp_path / "out.vcf").exists()
    partial = (tmp_path / ".out.vcf.partial").read_text().splitlines()
    assert len([line for line in partial if not line.startswith("#")]) == 33
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "out.vcf") == 0
    assert (tmp_path / "out.vcf").read_text() == (tmp_path / "whole.vcf").read_text()
    assert not list(tmp_path.glob(".out*"))

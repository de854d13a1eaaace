"""`dnachunker variants benchmark` from end to end: scores as of `score-variants`, baselines, one-line errors."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from dnachunker.cli import main
from dnachunker.dataprep.corpus.markov import MarkovTables
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.downstream.exported import Exported
from dnachunker.downstream.variants.alleles import Alleles
from dnachunker.downstream.variants.benchmark import _numbered
from dnachunker.downstream.variants.score_columns import markov_ratio

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
SITES = range(301, 301 + 14 * 37, 37)
ARCHITECTURE = ("shift0", "shift1", "trunk_cosine", "trunk_l2_near", "entropy", "entropy_near", "architecture")


def contig(fasta: Path, name: str) -> str:
    return next("".join(part.split("\n")[1:]) for part in fasta.read_text().split(">")[1:] if part.startswith(name))


def labelled(letters: str, name: str, sites: range) -> str:
    """Three SNVs at each site: `good` tells the classes apart, `bad` does not, `part` has no value at most variants."""
    rng = np.random.default_rng(0)
    text = HEADER
    for number, at in enumerate(sites):
        for place, alt in enumerate(base for base in "ACGT" if base != letters[at - 1].upper()):
            positive = (number + place) % 3 == 0
            kind = "one" if number < 3 and not positive else "two" if number < 9 else "three"
            info = f"CLS={'LOF' if positive else 'FUNC'};K={kind};good={positive + rng.random():.3f}"
            info += f";bad={rng.random():.3f}"
            info += ";part=1" if number == place == 0 else ""
            text += f"{name}\t{at}\t.\t{letters[at - 1].upper()}\t{alt}\t.\t.\t{info}\n"
    return text


def run(export: Path, fasta: Path, vcf: Path, output: Path, *more: str) -> int:
    where = ["--model", str(export), "--fasta", str(fasta), "--vcf", str(vcf), "--output", str(output)]
    return main(["variants", "benchmark", *where, "--context", "200", "--resamples", "200", *more])


@pytest.fixture(scope="module")
def variants(fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("variants") / "v.vcf"
    path.write_text(labelled(contig(fasta, "a"), "a", SITES))
    return path


@pytest.fixture(scope="module")
def found(
    export: Path, fasta: Path, variants: Path, sample_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("benchmark") / "out"
    columns = [word for name in ("good", "bad", "part") for word in ("--against", f"INFO/{name}")]
    label = ["--label", "INFO/CLS=LOF", "--by", "INFO/K", "--corpus", str(sample_corpus), "--radius", "18"]
    assert run(export, fasta, variants, output, *label, *columns) == 0
    return output


def test_a_row_for_each_variant_has_the_scores_of_score_variants(
    export: Path, fasta: Path, variants: Path, found: Path, tmp_path: Path
) -> None:
    where = ["--model", str(export), "--fasta", str(fasta), "--vcf", str(variants), "--context", "200"]
    where += ["--radius", "18"]  # bases around two sites do not meet, so that each site is a group of folds
    assert main(["score-variants", *where, "--output", str(tmp_path / "out.vcf")]) == 0
    scored = [line.split("\t")[7] for line in (tmp_path / "out.vcf").read_text().splitlines() if line[0] != "#"]
    with (found / "variants.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(scored) == 3 * len(SITES)
    for row, info in zip(rows, scored, strict=True):
        values = dict(item.split("=") for item in info.split(";"))
        assert row["label"] == str(int(values["CLS"] == "LOF"))
        assert float(row["INFO/good"]) == float(values["good"])
        assert float(row["likelihood"]) == pytest.approx(-float(values["DNC_LLR"]), abs=2e-5)
        for stage in "01":
            assert float(row[f"shift{stage}"]) == pytest.approx(float(values[f"DNC_SHIFT{stage}"]), abs=1e-5)
    for name in ("random_likelihood", *(f"random_{name}" for name in ARCHITECTURE), "markov5", "markov8"):
        assert len({row[name] for row in rows}) > 1, name


def test_planted_scores_are_told_from_noise_in_every_stratum(found: Path) -> None:
    results = json.loads((found / "results.json").read_text())
    rows = {(row["score"], row["stratum"]): row for row in results["rows"]}
    good, bad = rows["INFO/good", "all"], rows["INFO/bad", "all"]
    assert good["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert bad["auroc"]["low"] < 0.5 < bad["auroc"]["high"]
    assert (good["positives"], good["negatives"]) == (14, 28)
    assert {stratum for _, stratum in rows} == {"all", "INFO/K=one", "INFO/K=three", "INFO/K=two"}
    assert rows["INFO/good", "INFO/K=one"]["auroc"] is None  # one class
    assert rows["INFO/part", "all"]["auroc"] is None  # one variant has a value
    assert rows["INFO/good", "INFO/K=two"]["auroc"]["value"] == 1.0
    difference = results["auroc_differences"]["INFO/good"]
    assert difference["value"] == pytest.approx(1 - rows["likelihood", "all"]["auroc"]["value"])
    assert difference["low"] == pytest.approx(1 - rows["likelihood", "all"]["auroc"]["high"])
    assert results["calibration"]["INFO/good"]["brier"] < 0.05 < results["calibration"]["INFO/bad"]["brier"]
    for name in ("likelihood", *ARCHITECTURE, "likelihood_architecture"):
        assert 0 <= rows[name, "all"]["auroc"]["low"] <= rows[name, "all"]["auroc"]["high"] <= 1
    page = (found / "page.html").read_text()
    assert page.count("<svg") == 2
    assert "&lt;svg" not in page
    table = (found / "table.md").read_text()
    assert "| INFO/K=one | 0 | 6 | – |" in table
    assert "42 variants at 14 positions" in table
    assert "37 bases apart are in one fold, with all between them: 14 groups" in table
    assert json.loads((found / "options.json").read_text())["label"] == "INFO/CLS=LOF"


def test_random_letters_are_not_in_the_corpus_and_a_planted_leak_is_reported(
    export: Path, found: Path, sample_corpus: Path, tmp_path: Path
) -> None:
    assert json.loads((found / "results.json").read_text())["overlap"]["in their windows"] < 0.01
    source = Path(__file__).resolve().parents[3] / "dataprep" / "sample" / "helicobacter_pylori_F32.fa.gz"
    with Genome(source) as genome:
        letters = genome.fetch(next(iter(genome.lengths)), 100_000, 101_000)
    (tmp_path / "leak.fa").write_text(f">leak\n{letters}\n")
    (tmp_path / "v.vcf").write_text(labelled(letters, "leak", range(301, 304)))
    more = ["--label", "INFO/CLS=LOF", "--corpus", str(sample_corpus), "--no-architecture", "--no-random-weights"]
    assert run(export, tmp_path / "leak.fa", tmp_path / "v.vcf", tmp_path / "out", *more) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["overlap"]["in their windows"] > 0.99
    assert (
        "the train split of the corpus holds: 100.00% over the variants" in (tmp_path / "out" / "table.md").read_text()
    )
    assert {row["score"] for row in results["rows"]} == {"likelihood", "likelihood_size", "markov5", "markov8"}


def test_chunk_vectors_and_entropies_are_read_off_the_same_passes(
    export: Path, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[int] = []
    batch = Exported.batch
    monkeypatch.setattr(Exported, "batch", lambda self, ids: windows.append(len(ids)) or batch(self, ids))
    letters = contig(fasta, "b")
    (tmp_path / "v.vcf").write_text(labelled(letters, "b", range(151, 152)))
    more = ["--label", "INFO/CLS=LOF", "--no-random-weights", "--radius", "20"]
    assert run(export, fasta, tmp_path / "v.vcf", tmp_path / "out", *more) == 0
    assert sum(windows) == 2 + 2 * 4  # one masked window, and one for each of four haplotypes, from both strands
    with (tmp_path / "out" / "variants.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    bare = AutoModel.from_pretrained(export, trust_remote_code=True).eval()
    masked = AutoModelForMaskedLM.from_pretrained(export, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=False)
    opposite = str.maketrans("ACGT", "TGCA")
    bases = tokenizer.convert_tokens_to_ids(list("ACGT"))

    def read(base: str, strand: int) -> tuple[np.ndarray, np.ndarray]:
        """Trunk vectors within 20 bases of the site, and entropies where its base is masked."""
        window = letters[51:150] + base + letters[151:250]
        window = window if strand == 0 else window.translate(opposite)[::-1]
        ids = tokenizer(window, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            vectors = bare(**ids, output_hidden_states=True).hidden_states[2][0, 79:120].double().numpy()
            ids["input_ids"][0, 99] = tokenizer.mask_token_id
            logs = masked(**ids).logits[0, 79:120][:, bases].double().log_softmax(-1).numpy()
        return vectors, -(np.exp(logs) * logs).sum(1)

    for row in rows:
        cosine, l2, entropy = [], [], []
        for strand in range(2):
            (before, entropies), (after, _) = read(row["ref"], strand), read(row["alt"], strand)
            lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
            cosine.append(1 - (before * after).sum(1) / lengths)
            l2.append(np.linalg.norm(before - after, axis=1))
            entropy.append((entropies[20], np.delete(entropies, 20).mean()))
        for name, of in (("trunk_cosine", cosine), ("trunk_l2", l2)):
            assert float(row[name]) == pytest.approx(np.mean(of, 0)[20], rel=1e-3, abs=1e-6)
            assert float(row[f"{name}_near"]) == pytest.approx(np.mean(of), rel=1e-3, abs=1e-6)
        assert (float(row["entropy"]), float(row["entropy_near"])) == pytest.approx(
            tuple(np.mean(entropy, 0)), rel=1e-4
        )
        assert row["architecture"] == ""  # all variants are at one position: nothing to validate on


def test_variants_near_one_another_are_one_group() -> None:
    starts = [("a", 5), ("a", 5), ("a", 25), ("a", 45), ("a", 66), ("b", 66), ("b", 87)]
    spans = [(name, start, start + 1) for name, start in starts]
    assert _numbered(spans, 20).tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert _numbered(spans, 0).tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert _numbered([], 20).tolist() == []


def test_a_markov_ratio_is_that_of_whole_haplotypes() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 4000).astype(np.uint8)
    letters = "".join("ACGT"[code] for code in codes)
    tables = MarkovTables.counted([codes], longest=6)
    start, end, reference, alternative = 2000, 2003, letters[2000:2003], "TTACG"
    for order in (2, 6):
        whole = []
        for middle in (reference, alternative):
            one = np.array(["ACGT".index(base) for base in letters[:start] + middle + letters[end:]], np.uint8)
            whole.append(-(tables.losses(one, order).sum() + tables.losses(3 - one[::-1], order).sum()) / 2)
        ratio = markov_ratio(
            tables, order, Alleles(start, end, reference, alternative), lambda a, b: letters[a:b], len(letters)
        )
        assert ratio == pytest.approx(whole[1] - whole[0], abs=1e-6)


def test_a_suite_knows_files_label_and_strata(export: Path, fasta: Path, tmp_path: Path) -> None:
    letters = contig(fasta, "b")
    places = range(120, 180, 10)
    columns = {
        "chrom": ["chrb"] * 6, "pos": list(places), "ref": [letters[at - 1] for at in places],
        "alt": ["ACGT"["CGTA".index(letters[at - 1])] for at in places], "label": [True, False] * 3,
        "consequence": ["exon", "exon", None, "intron", "exon", "exon"],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    where = ["--model", str(export), "--fasta", str(fasta), "--output", str(tmp_path / "out"), "--context", "200"]
    brief = ["--no-architecture", "--no-random-weights", "--resamples", "20"]
    assert main(["variants", "benchmark", "--suite", "traitgym", "--data", str(tmp_path), *where, *brief]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    counts = {row["stratum"]: (row["positives"], row["negatives"]) for row in results["rows"]}
    assert counts == {
        "all": (3, 3), "consequence=exon": (2, 2), "consequence=intron": (0, 1), "consequence=no value": (1, 0)
    }  # fmt: skip
    assert results["title"] == "TraitGym, causal regulatory variants"
    assert results["options"]["corpus"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--label", "INFO/CLS"], "--label 'INFO/CLS': not a condition such as INFO/CLS=LOF or P-Value<1e-5"),
        (["--label", "INFO/CLS=LOF:"], "name the negative values after the colon"),
        (["--label", "INFO/CLS<many"], "'many' is not a number"),
        (["--label", "INFO/KLS=LOF"], "no column 'INFO/KLS'; it has ID, QUAL, FILTER, INFO/CLS"),
        (["--label", "INFO/CLS=lof"], "no positive variant that can be scored; INFO/CLS has FUNC (28), LOF (14)"),
        (["--label", "INFO/CLS=LOF:INT"], "no negative variant that can be scored; INFO/CLS has FUNC (28), LOF (14)"),
        (["--label", "INFO/CLS<1"], "line 3: INFO/CLS is 'LOF', not a number"),
        (["--label", "INFO/CLS=LOF", "--only", "INFO/good>9"], "no positive variant that can be scored"),
        (["--label", "INFO/CLS=LOF", "--against", "INFO/K"], "line 3: INFO/K is 'two', not a number"),
        (["--label", "INFO/CLS=LOF", "--context", "100"], "--context 100: must be at least 4 times --longest 50"),
        (["--label", "INFO/CLS=LOF", "--corpus", "nowhere"], "nowhere: no such corpus"),
        ([], "--label is missing; or name a --suite"),
        (["--suite", "brca1"], "--data is missing: the folder with brca1_sge.vcf.gz"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    export: Path, fasta: Path, variants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    more: list[str], message: str,
) -> None:  # fmt: skip
    assert run(export, fasta, variants, tmp_path / "out", *more) == 2
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1]
    assert said[-1].startswith("dnachunker: ")
    assert not list(tmp_path.iterdir())

"""`dnachunker annotate`: a planted signal is learned and held out, chance stays chance, outputs open elsewhere."""

import csv
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import bioframe
import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from dnachunker.cli import main
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.exported import open_exported
from dnachunker.downstream.per_base.config import AnnotateConfig
from dnachunker.downstream.per_base.data import LabelledGenome
from dnachunker.downstream.per_base.decoding import count_chain
from dnachunker.downstream.per_base.labels import paint, read_annotation
from dnachunker.downstream.per_base.networks import predict
from dnachunker.downstream.per_base.outputs import write_segments
from dnachunker.foundations.typed_config import load_config

GENE = 60  # bases; planted genes are CAG repeats, or CTG repeats on the other strand
FAST = (
    "window=256",
    "batch_size=6",
    "steps=24",
    "validate_every=12",
    "learning_rate=1e-2",
    "cnn_layers=4",
    "bootstrap=20",
    "ignore=[UTR]",
)
OPPOSITE = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """genome.fa with the contigs chrI, chrII and chrIII, and genes.gtf, which calls them I, II and III."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    fasta, gtf = [], []
    for contig, length in (("I", 6000), ("II", 4000), ("III", 4000)):
        letters = rng.choice(list("ACGT"), length)
        for number, start in enumerate(range(50, length - 200, 200)):
            strand = "+-"[number % 2]
            gene = "CAG" * (GENE // 3)
            letters[start : start + GENE] = list(gene if strand == "+" else gene[::-1].translate(OPPOSITE))
            end = start + GENE + 20 + GENE  # two coding exons and an intron of 20 random bases
            letters[end - GENE : end] = letters[start : start + GENE]
            for kind, first, last in (
                ("transcript", start, end), ("exon", start, start + GENE), ("CDS", start, start + GENE),
                ("exon", end - GENE, end), ("CDS", end - GENE, end),
            ):  # fmt: skip
                gtf.append(f'{contig}\tx\t{kind}\t{first + 1}\t{last}\t.\t{strand}\t.\tgene_id "{contig}{number}";')
        fasta.append(f">chr{contig}\n{''.join(letters)}\n")
    (folder / "genome.fa").write_text("".join(fasta))
    (folder / "genes.gtf").write_text("\n".join(gtf) + "\n")
    return folder


def annotate(export: Path, planted: Path, output: Path, *more: str, annotation: str = "genes.gtf") -> int:
    where = ["--model", str(export), "--fasta", str(planted / "genome.fa"), "--output", str(output)]
    held = ["--validation", "chrII", "--test", "chrIII"]
    return main(["annotate", *where, "--annotation", str(planted / annotation), *held, *FAST, *more])


@pytest.fixture(scope="module")
def results(export: Path, planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods with a class for each strand."""
    output = tmp_path_factory.mktemp("results") / "out"
    methods = [word for method in ("full", "cnn", "markov") for word in ("--method", method)]
    assert annotate(export, planted, output, *methods, "strands=true") == 0
    return output


def test_a_planted_signal_is_learned_on_either_strand(results: Path) -> None:
    metrics = json.loads((results / "metrics.json").read_text())
    assert list(metrics) == ["full", "cnn", "markov"]
    for method, (record,) in metrics.items():
        classes = record["scores"]["classes"]
        assert list(classes) == ["CDS+", "CDS-", "intron+", "intron-", "intergenic"]
        for name in ("CDS+", "CDS-"):
            assert classes[name]["f1"] > 0.9, method
    assert metrics["markov"][0]["scores"]["classes"]["CDS+"]["segment_f1_overlap"] > 0.8
    assert abs(metrics["cnn"][0]["parameters"] / metrics["full"][0]["parameters"] - 1) < 0.2


def test_tables_figure_and_tracks(results: Path) -> None:
    rows = list(csv.DictReader((results / "table.csv").open()))
    assert [row["class"] for row in rows[:6]] == ["mean", "CDS+", "CDS-", "intron+", "intron-", "intergenic"]
    assert ET.parse(results / "figure.svg").getroot().tag.endswith("svg")
    record = json.loads((results / "markov" / "seed-0" / "result.json").read_text())
    bed = bioframe.read_table(results / "markov" / "seed-0" / "predicted.bed", schema="bed9", skiprows=1)
    assert set(bed["chrom"]) == {"chrIII"}
    assert set(bed["name"]) <= {"CDS", "intron"}
    assert bed["score"].between(0, 1000).all()
    assert (bed["end"] > bed["start"]).all()
    assert not bioframe.overlap(bed, bed, how="inner").query("start != start_").shape[0]
    truth = np.zeros(4000, bool)
    for start in range(50, 3800, 200):
        truth[start : start + GENE] = truth[start + GENE + 20 : start + 2 * GENE + 20] = True
    found = np.zeros(4000, bool)
    for row in bed[bed["name"] == "CDS"].itertuples():
        found[row.start : row.end] = True
    assert (truth & found).sum() / (truth | found).sum() > 0.9
    assert record["scores"]["classes"]["CDS+"]["bases"] + record["scores"]["classes"]["CDS-"]["bases"] == truth.sum()


def test_the_saved_model_gives_the_predicted_segments_in_plain_transformers(
    results: Path, planted: Path, export: Path, tmp_path: Path
) -> None:
    folder = results / "full" / "seed-0"
    model = AutoModelForTokenClassification.from_pretrained(folder / "model", trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules."), "the code is the folder's own"
    assert model.config.id2label == {0: "CDS+", 1: "CDS-", 2: "intron+", 3: "intron-", 4: "intergenic"}
    config = load_config(AnnotateConfig, "annotate", [*FAST, "strands=true"], kind="downstream")
    test = [Region("chrIII", 0, 4000)]
    with Genome(planted / "genome.fa") as genome:
        features = read_annotation([planted / "genes.gtf"], genome.lengths, config)
        labels = paint(features, genome.lengths, config, strands=True)
        probabilities = predict(LabelledGenome(genome, open_exported(export), labels, 256, 32), model, test, config)
        window = genome.fetch("chrIII", 160, 416)  # from the second window, which keeps 192..384, both flanks are 32
    chain = count_chain([labels.read(Region("chrI", 0, 6000))], 5)
    write_segments(tmp_path / "again.bed", test, probabilities, chain.decode(probabilities, [4000]), labels.classes)
    assert (tmp_path / "again.bed").read_text() == (folder / "predicted.bed").read_text()

    tokenizer = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False)
    with torch.no_grad():
        strands = [
            model(**tokenizer(text, return_tensors="pt")).logits[0]
            for text in (window, window[::-1].translate(OPPOSITE))
        ]
    mean = (strands[0] + strands[1].flip(0)[:, [1, 0, 3, 2, 4]]) / 2
    np.testing.assert_allclose(probabilities[192:384], mean.softmax(-1)[32:224].numpy(), atol=1e-4)


def test_shuffled_genes_give_chance(export: Path, planted: Path, tmp_path: Path) -> None:
    """The genes of each contig move to other places, so nothing in the sequence tells where they are."""
    rng = np.random.default_rng(1)
    lines = []
    for line in (planted / "genes.gtf").read_text().splitlines():
        fields = line.split("\t")
        if fields[2] == "CDS":
            start = int(rng.integers(1, 3900))
            lines.append("\t".join([*fields[:3], str(start), str(start + 59), *fields[5:]]))
    (tmp_path / "genes.gtf").write_text("\n".join(lines) + "\n")
    (tmp_path / "genome.fa").symlink_to(planted / "genome.fa")
    methods = ("--method", "full", "--method", "markov", "ignore=[UTR, intron]", "steps=12", "validate_every=12")
    assert annotate(export, tmp_path, tmp_path / "out", *methods) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for record in metrics["full"] + metrics["markov"]:
        scored = record["scores"]
        share = scored["classes"]["CDS"]["bases"] / scored["bases"]
        assert scored["classes"]["CDS"]["auprc"] < share + 0.12


def test_the_same_command_keeps_results_and_another_seed_is_another_row(
    export: Path, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("steps=2", "validate_every=1")
    for output in ("a", "b"):
        assert annotate(export, planted, tmp_path / output, "--method", "probe", *few) == 0
    first, again = ((tmp_path / name / "probe/seed-0/predicted.bed") for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    before = first.stat().st_mtime_ns
    assert annotate(export, planted, tmp_path / "a", "--method", "probe", "--method", "markov", *few) == 0
    assert first.stat().st_mtime_ns == before
    assert annotate(export, planted, tmp_path / "a", "--method", "probe", *few, "seeds=2") == 2
    assert "was made with seeds 1, and this is 2" in capsys.readouterr().err
    record = json.loads((tmp_path / "a" / "probe" / "seed-0" / "result.json").read_text())
    classes = 3
    assert record["parameters"] == (open_exported(export).config.width + 1) * classes


def test_a_causal_model_reads_bos_first_and_predicts_every_base(causal: Path, planted: Path, tmp_path: Path) -> None:
    few = ("steps=1", "batch_size=1", "--test", "chrIII:1-600", "--validation", "chrII:1-300")
    assert annotate(causal, planted, tmp_path / "out", "--method", "probe", *few, "--train", "chrI") == 0
    (record,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["probe"]
    assert record["scores"]["bases"] == 4000  # the two --test regions, merged


def test_a_diverged_training_is_a_result_that_says_so(export: Path, planted: Path, tmp_path: Path) -> None:
    few = ("steps=3", "learning_rate=1e30", "weight_decay=0.0")
    assert annotate(export, planted, tmp_path / "out", "--method", "random-full", *few) == 0
    (record,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["random-full"]
    assert record["diverged"] is True
    assert math.isfinite(record["scores"]["macro_f1"])
    assert "random-full, diverged" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    ("annotation", "more", "message"),
    [
        ("other.gtf", (), "no contig of the genome: the file names scaffold_7, the genome has chrI"),
        ("empty.gtf", (), "lists no interval"),
        ("kinds.gtf", (), "no feature of kind CDS or"),
        ("utr.gtf", (), "class 'UTR' has no base in the training regions"),
        ("genes.gtf", ("--test", "chrII"), "have bases in common; name disjoint regions"),
        ("genes.gtf", ("--test", "chrIX"), "region 'chrIX': neither a contig of genome.fa nor a BED file"),
        ("genes.gtf", ("flank=128",), "window=256 and flank=128: a window has to be longer than its two flanks"),
        ("genes.gtf", ("log_values=true",), "log_values: this key does nothing with --annotation"),
        ("genes.gtf", ("clases=1",), "unknown key 'clases'; nearest valid key: 'classes'"),
    ],
)
def test_mistakes_give_one_line_and_leave_nothing(
    export: Path, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], annotation: str,
    more: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    genes = (planted / "genes.gtf").read_text()
    (tmp_path / "genome.fa").symlink_to(planted / "genome.fa")
    (tmp_path / "genes.gtf").write_text(genes)
    (tmp_path / "other.gtf").write_text(genes.splitlines()[0].replace("I\t", "scaffold_7\t", 1) + "\n")
    (tmp_path / "empty.gtf").write_text("# nothing\n")
    (tmp_path / "kinds.gtf").write_text("\n".join(genes.splitlines()).replace("CDS", "a").replace("exon", "b")
                                        .replace("transcript", "c") + "\n")  # fmt: skip
    (tmp_path / "utr.gtf").write_text(genes)
    with_utr = ("ignore=[]",) if annotation == "utr.gtf" else ()
    assert annotate(export, tmp_path, tmp_path / "out", *more, *with_utr, annotation=annotation) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert len([line for line in error if line.startswith("dnachunker: ")]) == 1
    assert not (tmp_path / "out").exists()

"""`dnachunker annotate --track`: a planted number is learned and held out, and the outputs open elsewhere."""

import json
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyBigWig
import pytest
from transformers import AutoModelForTokenClassification

from dnachunker.cli import main
from dnachunker.downstream.per_base import track_values
from dnachunker.downstream.per_base.track_values import kmer_means

FAST = ("window=256", "batch_size=6", "steps=24", "validate_every=12", "learning_rate=1e-2", "bootstrap=20")
CONTIGS = {"chrI": 6000, "chrII": 4000, "chrIII": 4000}
REPEAT = 60


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """genome.fa, and coverage.bw: about 20 over CAG repeats of either strand, 2 elsewhere, nothing on 500 bases."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    with pyBigWig.open(str(folder / "coverage.bw"), "w") as wig, (folder / "genome.fa").open("w") as fasta:
        wig.addHeader(list(CONTIGS.items()))
        for contig, length in CONTIGS.items():
            letters, rate = rng.choice(list("ACGT"), length), np.full(length, 2.0)
            for number, start in enumerate(range(50, length - 200, 100)):
                letters[start : start + REPEAT] = list(("CAG" if number % 2 else "CTG") * (REPEAT // 3))
                rate[start : start + REPEAT] = 20.0
            fasta.write(f">{contig}\n{''.join(letters)}\n")
            wig.addEntries(contig, 500, values=rng.poisson(rate)[500:].astype(float), span=1, step=1)
    return folder


def learn(export: Path, planted: Path, output: Path, *more: str) -> int:
    where = ["--model", str(export), "--fasta", str(planted / "genome.fa"), "--output", str(output)]
    held = ["--track", str(planted / "coverage.bw"), "--validation", "chrII", "--test", "chrIII"]
    return main(["annotate", *where, *held, *FAST, *more])


def test_a_planted_number_is_learned(export: Path, planted: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert learn(export, planted, output, "--method", "full", "--method", "kmer", "log_values=true") == 0
    metrics = json.loads((output / "metrics.json").read_text())
    for method, least in (("full", 0.7), ("kmer", 0.6)):
        scores = metrics[method][0]["scores"]
        assert scores["bases"] == 3500, "bases without a number are not scored"
        assert scores["pearson"] > least, method
        assert 0.3 < scores["variance_explained"] <= scores["pearson"] ** 2 + 1e-9
        assert scores["mean_of_tenths"][-1] > scores["mean_of_tenths"][0] + 1
    assert "| full |" in (output / "table.md").read_text()
    folder = output / "full" / "seed-0"
    assert AutoModelForTokenClassification.from_pretrained(folder / "model", trust_remote_code=True).num_labels == 1
    with pyBigWig.open(str(folder / "predicted.bw")) as ours, pyBigWig.open(str(planted / "coverage.bw")) as truth:
        assert ours.chroms() == CONTIGS
        predicted = ours.values("chrIII", 500, 4000, numpy=True)
        counted = np.log1p(truth.values("chrIII", 500, 4000, numpy=True))
    assert np.corrcoef(predicted, counted)[0, 1] == pytest.approx(metrics["full"][0]["scores"]["pearson"], abs=1e-4)
    assert predicted.mean() == pytest.approx(counted.mean(), rel=0.2), "in the units of the track"


def test_what_does_not_fit_is_refused(
    export: Path, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    below = tmp_path / "below.bw"
    with pyBigWig.open(str(below), "w") as wig:
        wig.addHeader(list(CONTIGS.items()))
        wig.addEntries("chrI", 0, values=[-1.0, 2.0], span=1, step=1)
    for name, numbers in (("flat", (1.0, 1.0)), ("empty", ())):
        with pyBigWig.open(str(tmp_path / f"{name}.bw"), "w") as wig:
            wig.addHeader(list(CONTIGS.items()))
            contigs = {"chrI": (1.0, 2.0), "chrII": numbers or (1.0, 2.0), "chrIII": () if not numbers else (1.0, 2.0)}
            for contig, values in contigs.items():
                if values:
                    wig.addEntries(contig, 0, values=list(values), span=1, step=1)
    none = "no two numbers in the {0} regions differ, which lie on {1}; choose other regions with --{0}"
    for more, message in (
        (["--method", "markov"], "take --method kmer"),
        (["--train", "chrI:1-400"], none.format("train", "chrI")),
        (["--track", str(tmp_path / "flat.bw")], none.format("validation", "chrII")),
        (["--track", str(tmp_path / "empty.bw")], none.format("test", "chrIII")),
        (["ignore=[UTR]"], "ignore: this key does nothing with --track; leave it as in the preset annotate"),
        (["classes=[{name: gene, kinds: [gene]}]"], "classes: this key does nothing with --track"),
        (["--track", str(below), "log_values=true"], "has numbers below 0"),
        (["--track", str(planted / "genome.fa")], "not readable as a bigWig"),
    ):
        assert learn(export, planted, tmp_path / "out", *more) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_means_of_neighbours_are_those_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track_values, "_PIECE", 64)
    rng = np.random.default_rng(0)
    codes, values = rng.choice(5, 400, p=[0.6, 0.2, 0.1, 0.08, 0.02]).astype(np.uint8), rng.random(400, np.float32)
    values[100:140] = np.nan
    other = [3 - code if code < 4 else 4 for code in codes[::-1].tolist()]
    seen = defaultdict(list)
    for strand, numbers in ((codes.tolist(), values), (other, values[::-1])):
        for at in range(3, 397):
            if 4 not in (word := tuple(strand[at - 3 : at + 4])) and np.isfinite(numbers[at]):
                seen[word].append(numbers[at])
    found, _ = kmer_means([(codes, values)], [codes, codes[:5]])
    words = [tuple(codes[at - 3 : at + 4].tolist()) if 3 <= at < 397 else () for at in range(400)]
    expected = [np.mean(seen[word]) if word in seen else 0.0 for word in words]
    np.testing.assert_allclose(found[:400], expected, atol=1e-6)
    assert not found[400:403].any(), "no seven bases"


def test_means_of_neighbours_take_the_memory_of_one_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track_values, "_PIECE", 2**14)
    length = 2**19

    def regions() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(4):
            yield np.zeros(length, np.uint8), np.ones(length, np.float32)

    tracemalloc.start()
    kmer_means(regions(), [np.zeros(9, np.uint8)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * length, "bytes: twice codes, numbers and words of a region"

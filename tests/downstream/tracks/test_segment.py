"""`dnachunker segment`: tracks cover the regions, equal the model's chunks, and open in other tools."""

import gzip
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import bioframe
import numpy as np
import pyBigWig
import pytest
import torch
import zstandard
from transformers import AutoModel, AutoTokenizer

from dnachunker.cli import main
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream import windows
from dnachunker.downstream.exported import Exported, open_exported
from dnachunker.downstream.regions import choose_regions
from dnachunker.downstream.windows import tile
from dnachunker.foundations.failures import BadInput


def segment(export: Path, fasta: Path, output: Path, *more: str) -> int:
    return main(["segment", "--model", str(export), "--fasta", str(fasta), "--output", str(output), *more])


def read_contigs(fasta: Path) -> dict[str, str]:
    records = fasta.read_text().split(">")[1:]
    return {record.split("\n")[0]: record.partition("\n")[2].replace("\n", "") for record in records}


@pytest.fixture(scope="module")
def tracks(export: Path, fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole genome, each contig in one window."""
    output = tmp_path_factory.mktemp("tracks") / "whole"
    assert segment(export, fasta, output, "--window", "4096") == 0
    return output


def test_tracks_equal_the_models_chunks(tracks: Path, export: Path, fasta: Path) -> None:
    model = AutoModel.from_pretrained(export, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=False)
    for contig, letters in read_contigs(fasta).items():
        with torch.no_grad():
            output = model(**tokenizer(letters, return_tensors="pt", return_token_type_ids=False))
        for stage in range(2):
            bed = bioframe.read_table(tracks / f"stage{stage}.bed", schema="bed9")
            ours = bed[bed["chrom"] == contig]
            ids = np.repeat(np.arange(len(ours)), ours["end"] - ours["start"])
            assert ids.tolist() == output.chunk_ids[stage][0].tolist()
            with pyBigWig.open(str(tracks / f"stage{stage}.bw")) as wig:
                values = wig.values(contig, 0, len(letters), numpy=True)
            asked = np.ones(len(letters), bool) if stage == 0 else output.boundaries[0][0].numpy()
            np.testing.assert_allclose(values[asked], output.boundary_probabilities[stage][0].numpy()[asked], atol=1e-6)
            assert np.isnan(values[~asked]).all()


@pytest.mark.parametrize("window", [(), ("--window", "512", "--flank", "64"), ("--window", "300", "--flank", "0")])
def test_every_base_of_the_regions_lies_in_one_chunk_of_each_stage(
    export: Path, fasta: Path, tmp_path: Path, window: tuple[str, ...]
) -> None:
    bed = tmp_path / "regions.bed"
    bed.write_text("b\t10\t200\nc\t0\t90\nb\t150\t260\n")  # out of order, overlapping
    regions = {"a": (700, 2000), "b": (10, 260), "c": (0, 90)}
    assert segment(export, fasta, tmp_path / "out", "--region", str(bed), "--region", "a:701-2,000", *window) == 0
    starts = []
    for stage in range(2):
        found = bioframe.read_table(tmp_path / "out" / f"stage{stage}.bed", schema="bed9")
        assert bioframe.is_bedframe(found)
        assert list(dict.fromkeys(found["chrom"])) == ["a", "b", "c"]
        for contig, (start, end) in regions.items():
            ours = found[found["chrom"] == contig]
            assert [start, *ours["end"]] == [*ours["start"], end]
            with pyBigWig.open(str(tmp_path / "out" / f"stage{stage}.bw")) as wig:
                assert wig.isBigWig()
                values = wig.values(contig, start, end, numpy=True)
                assert stage or not np.isnan(values).any()
                assert start == 0 or np.isnan(wig.values(contig, 0, start, numpy=True)).all()
        starts.append(set(zip(found["chrom"], found["start"], strict=True)))
    assert starts[1] <= starts[0]  # an outer chunk begins where an inner one does
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["bases"] == sum(end - start for start, end in regions.values())
    assert summary["chunks"] == [len(part) for part in starts]


def test_stitched_windows_agree_with_one_long_one(tracks: Path, export: Path, fasta: Path, tmp_path: Path) -> None:
    assert segment(export, fasta, tmp_path / "out", "--window", "1024", "--flank", "128") == 0
    for stage in range(2):
        cuts = []
        for folder in (tracks, tmp_path / "out"):
            bed = bioframe.read_table(folder / f"stage{stage}.bed", schema="bed9")
            cuts.append(set(bed[bed["chrom"] == "a"]["start"]))
        assert len(cuts[0] & cuts[1]) / len(cuts[0] | cuts[1]) > 0.9


def test_windows_keep_every_base_once_and_lean_on_the_contigs_ends() -> None:
    tiles = list(tile(Region("a", 100, 2500), 2600, 512, 64))
    assert tiles[0].start == 36
    assert tiles[-1].end == 2564
    kept = [base for w in tiles for base in range(w.keep_start, w.keep_end)]
    assert kept == list(range(100, 2500))
    assert all(w.end - w.start <= 512 for w in tiles)
    with pytest.raises(BadInput, match="longer than its two flanks"):
        list(tile(Region("a", 0, 2600), 2600, 128, 64))


def with_blocks(export: Path, folder: Path, size: int) -> Path:
    """A copy of the export whose layers take blocks of `size` positions."""
    shutil.copytree(export, folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "layer_block": size}))
    return folder


def test_whole_contigs_in_one_stretch_are_cut_as_in_one_window(
    tracks: Path, export: Path, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_blocks(export, tmp_path / "model", 100)
    monkeypatch.setattr(windows, "_PART", 700)  # bases of an output
    assert segment(model, fasta, tmp_path / "out", "--window", "whole") == 0
    assert json.loads((tmp_path / "out" / "options.json").read_text())["flank"] == 0, "none was used"
    for stage in range(2):
        assert (tmp_path / "out" / f"stage{stage}.bed").read_bytes() == (tracks / f"stage{stage}.bed").read_bytes()
        with pyBigWig.open(str(tmp_path / "out" / f"stage{stage}.bw")) as wig:
            ours = wig.values("a", 0, wig.chroms("a"), numpy=True)
        with pyBigWig.open(str(tracks / f"stage{stage}.bw")) as wig:
            np.testing.assert_allclose(ours, wig.values("a", 0, wig.chroms("a"), numpy=True), atol=1e-5)


def test_a_contig_that_does_not_fit_into_one_stretch_is_refused_with_the_bytes(
    export: Path, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(windows, "free_bytes", lambda: 1000)
    assert segment(export, fasta, tmp_path / "out", "--window", "whole") == 2
    refused = r"a has [\d,]+ bases, which need about ([\d,]+) bytes .* [\d,]+ bytes are free, of which 80% may be used"
    found = re.search(refused, capsys.readouterr().err)
    assert found
    needed = int(found[1].replace(",", ""))
    for free, result in ((1.2 * needed, 2), (1.3 * needed, 0)):
        monkeypatch.setattr(windows, "free_bytes", lambda free=free: int(free))
        assert segment(export, fasta, tmp_path / "out", "--window", "whole") == result
    monkeypatch.setattr(windows, "free_bytes", lambda: 1000)
    assert segment(export, fasta, tmp_path / "out", "--window", "512", "--overwrite") == 0


@pytest.mark.parametrize(
    ("described", "more", "remedy"),
    [
        ({"mixer": "bimamba"}, (), "an older version exported it: export the run again"),
        ({"mixer": "bimamba", "layer_block": 0}, (), "layer_block is 0 in its config.json: set it there"),
        ({"mixer": "other", "layer_block": 9}, (), "its mixer is other, and only bimamba .* give --window a number"),
        ({}, ("--flank", "0"), "--flank 0: --window whole reads a contig in one stretch, without flanks; leave it out"),
    ],
)
def test_what_cannot_run_in_one_stretch_is_refused_with_what_to_do(
    export: Path, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    described: dict[str, object], more: tuple[str, ...], remedy: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(Exported, "config", SimpleNamespace(model_type="dnachunker", **described))
    assert segment(export, fasta, tmp_path / "out", "--window", "whole", *more) == 2
    assert re.search(remedy, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "out").exists()


def test_a_gzipped_genome_gives_the_same_and_mistakes_leave_nothing(
    tracks: Path, export: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "genome.fa.gz"
    packed.write_bytes(gzip.compress(fasta.read_bytes()))
    assert segment(export, packed, tmp_path / "same", "--window", "4096") == 0
    assert (tmp_path / "same" / "stage1.bed").read_bytes() == (tracks / "stage1.bed").read_bytes()
    broken = tmp_path / "protein.fa"
    broken.write_text(">p\nACGTLLQ\n")
    cases = [
        ((packed, "--region", "chr9:1-10"), "neither a contig of genome.fa.gz"),
        ((packed, "--region", "b:290-310"), "does not lie in b, which has 300 bases"),
        ((broken,), "'L' is not a nucleotide letter"),
        ((export / "config.json",), "not FASTA"),
        ((tmp_path / "none.fa",), "none.fa: no such file"),
        ((packed, "--window", "100", "--flank", "50"), "longer than its two flanks"),
        ((packed, "--annotation", str(broken)), "only --html writes; add --html"),
        ((packed, "--region", "a" * 5000), "neither a contig of genome.fa.gz"),
    ]
    capsys.readouterr()
    for (path, *more), message in cases:
        assert segment(export, path, tmp_path / "out", *more) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error
        assert not (tmp_path / "out").exists()
    assert segment(export, packed, broken / "out") == 2
    assert "protein.fa/out: cannot be written: Not a directory; choose another" in capsys.readouterr().err
    for option in ("--window=0", "--window=1_0", "--flank=-1"):
        with pytest.raises(SystemExit):
            segment(export, packed, tmp_path / "out", option)
        assert "is not a whole number of at least" in capsys.readouterr().err
    assert segment(export, packed, tmp_path / "same") == 2
    assert "already exists" in capsys.readouterr().err


def test_every_genome_format_gives_the_same_tracks(tracks: Path, export: Path, fasta: Path, tmp_path: Path) -> None:
    ragged = fasta.read_bytes().replace(b">b\n", b"\n\n>b b\xe9\n\n  ").replace(b"\n", b"\r\n")
    (tmp_path / "ragged.fa").write_bytes(b"\xef\xbb\xbf" + ragged)
    (tmp_path / "genome.zst").write_bytes(zstandard.compress(fasta.read_bytes()) + zstandard.compress(b">empty\n"))
    for path in (tmp_path / "ragged.fa", tmp_path / "genome.zst"):
        assert segment(export, path, tmp_path / path.stem, "--window", "4096") == 0
        assert (tmp_path / path.stem / "stage0.bed").read_bytes() == (tracks / "stage0.bed").read_bytes()


def test_names_beyond_ascii_are_kept(export: Path, tmp_path: Path) -> None:
    letters = "ACGGT" * 30
    (tmp_path / "g.fa").write_bytes(f">Größe\n{letters}\n>".encode() + b"caf\xe9 x\n" + letters.encode() + b"\n")
    assert segment(export, tmp_path / "g.fa", tmp_path / "out", "--html") == 0
    names = {line.split("\t")[0] for line in (tmp_path / "out" / "stage0.bed").read_text("utf-8").splitlines()}
    assert names == {"Größe", "caf\\xe9"}
    with pyBigWig.open(str(tmp_path / "out" / "stage0.bw")) as wig:
        assert sorted(wig.chroms().values()) == [150, 150]
        assert not np.isnan(wig.values("Größe", 0, 150, numpy=True)).any()


def test_regions_from_a_gzipped_bed_and_damaged_files(fasta: Path, tmp_path: Path) -> None:
    packed = gzip.compress(b"b\t10\t200\n" * 50)
    (tmp_path / "peaks.bed.gz").write_bytes(packed)
    with Genome(fasta) as genome:
        assert choose_regions(genome, [str(tmp_path / "peaks.bed.gz")]) == [Region("b", 10, 200)]
        (tmp_path / "peaks.bed.gz").write_bytes(packed[:12] + bytes(255 - byte for byte in packed[12:]))
        with pytest.raises(BadInput, match="damaged gzip"):
            choose_regions(genome, [str(tmp_path / "peaks.bed.gz")])
    with pytest.raises(BadInput, match="damaged gzip"):
        Genome(tmp_path / "peaks.bed.gz")


def test_a_folder_without_weights_is_no_export(export: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(export / name, tmp_path / name)
    with pytest.raises(BadInput, match=r"\*\.safetensors is missing"):
        open_exported(tmp_path)

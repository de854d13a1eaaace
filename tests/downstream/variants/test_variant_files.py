"""VCF, bgzipped VCF and BCF are read and written, and what is not scored stays as it was."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pysam
import pysam.bcftools
import pytest
import zstandard

from dnachunker.cli import main

HEADER = """##fileformat=VCFv4.2
##contig=<ID=b>
##INFO=<ID=AF,Number=A,Type=Float,Description="frequency">
##FILTER=<ID=q10,Description="low">
##FORMAT=<ID=GT,Number=1,Type=String,Description="genotype">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1
"""


@pytest.fixture
def variants(fasta: Path) -> str:
    letters = "".join(fasta.read_text().split(">")[2].split("\n")[1:])
    rows = []
    for at in (100, 150, 200):
        other = "ACGT"["CGTA".index(letters[at - 1])]
        rows.append(f"b\t{at}\trs{at}\t{letters[at - 1]}\t{other},<DEL>\t29.50\tq10\tAF=0.100,0.2\tGT\t0/1\n")
    return HEADER + "".join(rows)


def score(export: Path, fasta: Path, vcf: Path, output: Path) -> int:
    where = ["--model", str(export), "--fasta", str(fasta), "--vcf", str(vcf), "--output", str(output)]
    return main(["score-variants", *where, "--context", "200"])


def records(path: Path) -> list[tuple[object, ...]]:
    with pysam.VariantFile(str(path)) as file:
        return [
            (r.chrom, r.pos, r.id, r.alleles, list(r.filter), r.info["DNC_STATUS"], r.info["DNC_LLR"][0] is not None)
            for r in file
        ]


def test_every_format_goes_in_and_out(export: Path, fasta: Path, tmp_path: Path, variants: str) -> None:
    (tmp_path / "in.vcf").write_text(variants)
    (tmp_path / "in.vcf.gz").write_bytes(gzip.compress(variants.encode()))
    (tmp_path / "in.zst").write_bytes(zstandard.compress(variants.replace("\n", "\r\n").encode()))
    pysam.bcftools.view("-Ob", "-o", str(tmp_path / "in.bcf"), str(tmp_path / "in.vcf"), catch_stdout=False)
    found = []
    for name, output in (
        ("in.vcf", "a.vcf"),
        ("in.vcf.gz", "b.vcf.gz"),
        ("in.zst", "c.vcf"),
        ("in.bcf", "d.bcf"),
        ("in.bcf", "e.vcf"),
    ):
        assert score(export, fasta, tmp_path / name, tmp_path / output) == 0
        found.append(records(tmp_path / output))
    assert found[0][0][5:] == (("scored", "no_sequence"), True)
    assert all(one == found[0] for one in found)
    assert "\t29.50\tq10\tAF=0.100,0.2;DNC_LLR=" in (tmp_path / "a.vcf").read_text()
    assert sorted(path.name for path in tmp_path.glob("*.*i")) == ["b.vcf.gz.tbi", "d.bcf.csi"]
    for output in ("b.vcf.gz", "d.bcf"):
        with pysam.VariantFile(str(tmp_path / output)) as file:
            assert [record.pos for record in file.fetch("b", 120, 180)] == [150]
    assert not list(tmp_path.glob(".*"))
    cut = (tmp_path / "in.bcf").read_bytes()[:-28]
    (tmp_path / "cut.bcf").write_bytes(cut)
    assert score(export, fasta, tmp_path / "cut.bcf", tmp_path / "f.vcf") == 2


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_file_of_variants_with_nothing_in_it_is_said_to_be_empty(
    export: Path, fasta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "in.vcf.gz").write_bytes(pack(b""))
    assert score(export, fasta, tmp_path / "in.vcf.gz", tmp_path / "out.vcf") == 2
    assert capsys.readouterr().err.endswith(f"{tmp_path}/in.vcf.gz: the file is empty\n")


@pytest.mark.parametrize("name", ["out.vcf.zst", "out.txt", "out", "out.bcf.gz"])
def test_a_name_of_no_format_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    nowhere = tmp_path / "nowhere"
    assert score(nowhere, nowhere, nowhere, tmp_path / name) == 2
    error = capsys.readouterr().err
    assert f"{name}: its name chooses the format, and must end in .vcf, .vcf.gz, .vcf.bgz, .bcf" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_names_that_begin_with_a_dash_are_no_options(
    export: Path, fasta: Path, tmp_path: Path, variants: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.vcf").write_text(variants)
    pysam.bcftools.view("-Ob", "-o", "-in.bcf", "in.vcf", catch_stdout=False)
    where = ["--model", str(export), "--fasta", str(fasta), "--context", "200"]
    for output in ("-out.vcf", "-out.vcf.gz", "-out.bcf"):
        assert main(["score-variants", *where, "--vcf=-in.bcf", f"--output={output}"]) == 0
        assert len(records(tmp_path / output)) == 3


def test_bytes_of_any_encoding_are_kept(export: Path, fasta: Path, tmp_path: Path, variants: str) -> None:
    latin = variants.replace("##contig", "##source=Grün\n##contig").encode("latin-1")
    (tmp_path / "in.vcf").write_bytes(b"\xef\xbb\xbf" + latin + b"\n")
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "out.vcf") == 0
    assert b"##source=Gr\xfcn\n" in (tmp_path / "out.vcf").read_bytes()
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "out.bcf") == 0
    assert len(records(tmp_path / "out.bcf")) == 3


def test_what_bcf_cannot_hold_is_said_before_scoring(
    export: Path, fasta: Path, tmp_path: Path, variants: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.vcf").write_text(variants.replace("AF=", "XX=").replace("##contig=<ID=b>\n", ""))
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "out.bcf") == 2
    assert "in.vcf: cannot be written as BCF" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.vcf"]
    header, lines = variants.split("s1\n")
    (tmp_path / "in.vcf").write_text(f"{header}s1\n" + "".join(reversed(lines.splitlines(keepends=True))))
    assert score(export, fasta, tmp_path / "in.vcf", tmp_path / "out.vcf.gz") == 0
    assert "not sorted by position" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.vcf", "out.vcf.gz"]

"""Every reader of user files meets the same odd files in the same way: it reads them, or one line says the cause."""

import gzip
import io
import os
import socket
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dnachunker.dataprep.downloads.catalog import read_list
from dnachunker.dataprep.genomes.features import located_features
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.downstream.studies.motifs import read_motifs
from dnachunker.downstream.tasks.labelled import read_labelled
from dnachunker.downstream.variants.variant_files import VariantLines
from dnachunker.foundations.failures import BadInput


def read_genome(path: Path) -> Any:
    with Genome(path) as genome:
        return genome.lengths


def read_variants(path: Path) -> Any:
    with VariantLines(path) as variants:
        return variants.header(), list(variants.records())


def read_intervals(path: Path) -> Any:
    return list(located_features(path, {"chr1": 100}))


GFF3 = "##gff-version 3\nchr1\tx\texon\t1\t20\t.\t-\t.\tID=1\n"
VCF = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t1\t.\tA\tC\t.\t.\t.\n"
GOOD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "x.fa": (read_genome, ">chr1\nACGTACGTAC\n>chr2\nACGT\n"),
    "x.bed": (read_intervals, "chr1\t1\t5\nchr1\t7\t9\n"),
    "x.gff3": (read_intervals, GFF3),
    "x.vcf": (read_variants, VCF),
    "x.csv": (read_labelled, "sequence,label\nACGT,0\nAC,1\n"),
    "x.jaspar": (read_motifs, ">M1 one\nA [ 1 2 ]\nC [ 1 2 ]\nG [ 1 2 ]\nT [ 1 2 ]\n"),
    "x.tsv": (read_list, "name\turl\na\thttps://example.org/a.fa\n"),
}


def tarred(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a"), io.BytesIO())
        (member := tarfile.TarInfo("b")).size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def long_window(content: bytes) -> bytes:
    """As `zstd --long=30` compresses a large file in a pipe."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=30, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, long_window], ids=["gzip", "zstd", "long window"])
def test_packed_content_is_read_as_it_is(name: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    read, text = GOOD[name]
    path = tmp_path / name
    path.write_text(text)
    plain = read(path)
    path.write_bytes(pack(text.encode()))
    assert str(read(path)) == str(plain)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert str(read(path)) == str(plain)


PAGE = b"<!DOCTYPE html>\n<html><head><title>503</title></head></html>\n"
ODD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "UTF-16": (lambda text: text.decode().encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "UTF-16 without a mark": (lambda text: text.decode().encode("utf-16-be"), "UTF-16 text; save it as UTF-8"),
    "compressed twice": (lambda text: gzip.compress(gzip.compress(text)), "compressed twice; decompress it once"),
    "zstd in gzip": (lambda text: gzip.compress(zstandard.compress(text)), "compressed twice; decompress it once"),
    "carriage returns": (lambda text: text.replace(b"\n", b"\r"), "bare carriage returns; convert them to LF"),
    "many carriage returns": (lambda text: text.replace(b"\n", b"\r") * 60_000, "bare carriage returns; convert"),
    "page": (lambda _: gzip.compress(PAGE), "a web page or XML, perhaps the error message of a server; fetch"),
    "PDF": (lambda _: b"%PDF-1.7\n", "a PDF document, not a text file"),
    "BAM": (lambda _: gzip.compress(b"BAM\1" + bytes(60)), "BAM (alignments), not a text file"),
    "CRAM": (lambda _: b"CRAM\3\0" + bytes(30), "CRAM (alignments), not a text file"),
    "tar": (tarred, "a tar archive; unpack it"),
    "zip": (lambda text: b"PK\3\4" + text, "compressed with zip; unpack it"),
    "2bit.gz": (
        lambda _: gzip.compress(struct.pack("<4I", 0x1A412743, 0, 0, 0)),
        "a compressed .2bit file; decompress",
    ),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("odd", ODD)
def test_odd_content_is_named(name: str, odd: str, tmp_path: Path) -> None:
    read, text = GOOD[name]
    make, message = ODD[odd]
    (tmp_path / name).write_bytes(make(text.encode()))
    with pytest.raises(BadInput) as error:
        read(tmp_path / name)
    assert message in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*GOOD, "x.parquet"])
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "a socket"])
def test_what_cannot_be_read_twice_is_refused_at_once(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = GOOD.get(name, (read_labelled, ""))[0]
    path = tmp_path / name
    if kind == "a pipe":
        os.mkfifo(path)  # opening it would wait for ever
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 bytes
            bound.bind(name)
    with pytest.raises(BadInput, match=f"{name}: {kind}.* not a regular file; "):
        read(path)


FASTQ = "@read1\nACGT\n+\nIIII\n"
OTHERS = {
    "FASTA": GOOD["x.fa"][1],
    "BED": GOOD["x.bed"][1],
    "VCF": GOOD["x.vcf"][1],
    "GFF3": GFF3,
    "FASTQ (reads)": FASTQ,
    "SAM (alignments)": "@HD\tVN:1.6\n" + FASTQ,
    "GenBank": "LOCUS       NC_001416 48502 bp DNA linear\n",
}


OWN = {"x.fa": "FASTA", "x.bed": "BED", "x.vcf": "VCF", "x.gff3": "GFF3"}
SWAPPED = [(name, own, other) for name, own in OWN.items() for other in OTHERS if other != own]


@pytest.mark.parametrize(("name", "own", "other"), SWAPPED)
def test_swapped_files_are_told_apart(name: str, own: str, other: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(OTHERS[other])
    with pytest.raises(BadInput) as error:
        GOOD[name][0](tmp_path / name)
    assert f"{name}: {other}, not {own}" in str(error.value)


@pytest.mark.parametrize("kind", ["VCF", "FASTQ (reads)", "FASTA"])
def test_a_name_that_says_nothing_makes_no_bed_of_another_kind(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(OTHERS[kind])
    with pytest.raises(BadInput) as error:
        read_intervals(tmp_path / "x")
    assert f"x: {kind}, not BED, GFF3, GTF or RepeatMasker's .out" in str(error.value)

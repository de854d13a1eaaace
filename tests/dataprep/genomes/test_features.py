"""Every spelling of BED, GFF3, GTF and RepeatMasker's .out gives its intervals; a bad line is named with its number."""

import gzip
from pathlib import Path

import pytest

from dnachunker.dataprep.genomes.contig_names import match_contigs
from dnachunker.dataprep.genomes.features import located_features
from dnachunker.foundations.failures import BadInput

LENGTHS = {"chr1": 1000, "chr2": 500}
FASTA = ">chr1 first\nACGT\n"


def read(folder: Path, name: str, text: str | bytes) -> list[tuple[str, int, int, str, str, str]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [tuple(feature[:6]) for feature in located_features(path, LENGTHS)]


BED_FORMS = {
    "tabs": "chr1\t10\t20\tpeak\t0\t-\n",
    "one blank": "chr1 10 20 peak 0 -\n",
    "blanks": "chr1   10  20   peak 0   -",
    "lines for browsers": "browser position chr1:1-100\ntrack name=x\n#c\n\nchr1\t10\t20\tpeak\t0\t-\n",
    "column names": "chrom\tstart\tend\tname\tscore\tstrand\nchr1\t10\t20\tpeak\t0\t-\n",
    "byte order mark": b"\xef\xbb\xbfchr1\t10\t20\tpeak\t0\t-\r\n",
    "CRLF": "chr1\t10\t20\tpeak\t0\t-\r\nchr9\t1\t2\r\n",
    "trailing tab": "chr1\t10\t20\tpeak\t0\t-\t\n",
    "gzip": gzip.compress(b"chr1\t10\t20\tpeak\t0\t-\n"),
}


@pytest.mark.parametrize("form", BED_FORMS)
@pytest.mark.parametrize("name", ["a.bed", "peaks.narrowPeak"])
def test_bed_as_people_write_it(form: str, name: str, tmp_path: Path) -> None:
    assert read(tmp_path, name, BED_FORMS[form]) == [("chr1", 10, 20, "peak", "peak", "-")]


GFF_LINE = "chr1\tx\texon\t11\t20\t.\t-\t.\t"
GFF_FORMS = {
    "GFF3": (GFF_LINE + "ID=1;Name=ABC", "ABC"),
    "GFF3 with escapes": (GFF_LINE + "ID=1;Name=A%20B%3BC", "A B;C"),
    "GTF": (GFF_LINE + 'gene_id "G1"; gene_name "ABC";', "ABC"),
    "GTF without quotes or a last semicolon": (GFF_LINE + "gene_id G1; gene_name ABC", "ABC"),
    "a semicolon in quotes": (GFF_LINE + 'note "gene_name no; x"; gene_name "A;B"; gene_id "G"', "A;B"),
    "an open quote": (GFF_LINE + 'Note=5"-end;Name=ABC', "ABC"),
    "no attributes": (GFF_LINE.rstrip("\t"), "exon"),
    "empty attributes": (GFF_LINE, "exon"),
    "trailing tabs": (GFF_LINE + "Name=ABC\t\t", "ABC"),
    "blanks": (GFF_LINE.replace("\t", "  ") + 'gene_id "G1"; gene_name "A B"', "A B"),
    "sequence behind it": (GFF_LINE + "Name=ABC\n>chr1\nACGT\n", "ABC"),
    "sequence behind a directive": ("##gff-version 3\n" + GFF_LINE + "Name=ABC\n##FASTA\n>chr1\nACGT\n", "ABC"),
}


@pytest.mark.parametrize("form", GFF_FORMS)
@pytest.mark.parametrize("name", ["a.gff3", "a.gtf.gz", "annotation.txt"])
def test_gff_as_people_write_it(form: str, name: str, tmp_path: Path) -> None:
    text, expected = GFF_FORMS[form]
    packed = gzip.compress(text.encode()) if name.endswith(".gz") else text
    assert read(tmp_path, name, packed) == [("chr1", 10, 20, "exon", expected, "-")]


def test_a_feature_across_the_origin_of_a_circular_contig(tmp_path: Path) -> None:
    text = "chr2\tx\tregion\t1\t500\t.\t+\t.\tIs_circular=true\nchr2\tx\tgene\t491\t510\t.\t+\t.\tName=A\n"
    found = read(tmp_path, "a.gff3", text)
    assert sorted(found[1:]) == [("chr2", 0, 10, "gene", "A", "+"), ("chr2", 490, 500, "gene", "A", "+")]
    region, gene = text.splitlines(keepends=True)
    assert read(tmp_path, "b.gff3", gene + region)[:2] == found[1:]  # in whatever order
    for no in ("Is_circular=false", "Note=Is_circular=true", "not_Is_circular=true", "Is_circular=trueish", "ID=1"):
        with pytest.raises(BadInput, match=r"chr2:491-510 is not within chr2, which has 500 bases"):
            read(tmp_path, "c.gff3", text.replace("Is_circular=true", no))


def test_only_gff3_has_escapes_in_names_of_contigs_and_an_equal_name_comes_first(tmp_path: Path) -> None:
    lengths = {"a|b": 100, "a%7Cc": 100, "a|c": 100}
    for name, attributes, given, expected in (
        ("a.gff3", "ID=1", "a%7Cb", ["a|b"]),
        ("a.gff3", "ID=1", "a%7Cc", ["a%7Cc"]),
        ("a.txt", "ID=1", "a%7Cb", ["a|b"]),
        ("a.gtf", 'gene_id "1"', "a%7Cc", ["a%7Cc"]),
        ("a.gtf", 'gene_id "1"', "a%7Cb", []),
        ("a.txt", 'gene_id "x=1"', "a%7Cb", []),
    ):
        line = f"\tx\texon\t11\t20\t.\t-\t.\t{attributes}\n"
        (tmp_path / name).write_text("a|c" + line + given + line)
        assert [feature.contig for feature in located_features(tmp_path / name, lengths)] == ["a|c", *expected]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.bed", "chr1\t1\t5\nchr1\t-5\t10\n", "line 2: '-5' is not a coordinate"),
        ("a.bed", "chr1\t1.5\t10\n", "line 1: '1.5' is not a coordinate"),
        ("a.bed", f"chr1\t{'1' * 5000}\t2\n", "line 1: '1{40}'... is not a coordinate"),
        ("a.bed", "chr1\t١\t٥\n", "line 1: '١' is not a coordinate"),
        ("a.bed", "chr1\t1\t5\0\n", "line 1: holds a NUL byte"),
        ("a.bed", "chr1\t1\t5\rchr1\t7\t9\n", "line 1: lines end in bare carriage returns"),
        (
            "rmsk.txt",
            "585\t1504\t13\t4\t13\tchr1\t1\t9\t-99\t+\n",
            "column 1 holds 585, .* but column 6 holds chr1; is",
        ),
        ("a.bed", GFF_LINE.join(("##gff-version 3\n", "\n")), "a.bed: GFF3, not BED"),
        ("a.bed", "chr1\t1,000\t2,000\n", "line 1: '1,000' is not a coordinate"),
        ("a.bed", "#\n\nchr1 20 10\n", "line 3: start 20 and end 10"),
        ("a.bed", "chr1\t10\t10\n", "line 1: start 10 and end 10"),
        ("a.bed", "chr1\t10\n", "line 1: not `contig start end`"),
        ("a.bed", "chr1\t990\t1001\n", "line 1: chr1:991-1001 is not within chr1, which has 1,000 bases"),
        ("a.bed", "\t990\t1001\n", "line 1: names no contig"),
        ("a.gff3", "chr1\tx\texon\t0\t9\t.\t+\t.\tID=1\n", "line 1: start 0 and end 9: bases count from 1"),
        ("a.gff3", "chr1\tx\texon\t9\t3\t.\t+\t.\tID=1\n", "line 1: start 9 and end 3"),
        ("a.gtf", "chr1\tx\texon\t9\t13\t.\t+\n", "line 1: 7 columns, but GFF and GTF have 8 or 9"),
        ("a.gtf", GFF_LINE + "a b\tc\n", "line 1: 10 columns"),
        ("a.out", "1 2 3 4 chr1 5 6\n", "line 1: not a line of RepeatMasker"),
        ("a.txt", "hello world\n", "line 1: not a line of BED, GFF3, GTF or RepeatMasker"),
        ("a.bed", gzip.compress(b"chr1\t1\t5\n", mtime=0)[:-6], "truncated gzip"),
        *((f"a.{ending}", FASTA, f"a.{ending}: FASTA, not ") for ending in ("bed", "out", "gff3", "gtf")),
        ("a.fa", FASTA, "a.fa: FASTA, not BED, GFF3, GTF or RepeatMasker's .out"),
        ("a.bed", "chr1\t1\t5\n>chr2\t1\t5\n", "line 2: begins with '>'"),
        ("a.bed", "chr1\t1\t5\n##FASTA\nACGT\n", "line 3: not `contig start end`"),
    ],
)
def test_a_bad_line_is_named(name: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message) as error:
        read(tmp_path, name, text)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


YEAST = [f"chr{n}" for n in ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")]
WORM = ["I", "II", "III", "IV", "V", "X", "MtDNA"]


@pytest.mark.parametrize(
    ("named", "genome", "expected"),
    [
        (["1", "X", "MT"], ["chr1", "chrX", "chrM"], {"1": "chr1", "X": "chrX", "MT": "chrM"}),
        (["chr1", "chrM"], ["1", "Mito"], {"chr1": "1", "chrM": "Mito"}),
        (["4", "10"], YEAST, {"4": "chrIV", "10": "chrX"}),
        (["IV", "X"], [str(n) for n in range(1, 17)], {"IV": "4", "X": "10"}),
        (["X"], [str(n) for n in range(1, 17)], {}),  # the sex chromosome, for all one knows
        (["chrIV", "chrX", "chrM"], WORM, {"chrIV": "IV", "chrX": "X", "chrM": "MtDNA"}),
        (["chr1", "1"], ["chr1"], {"chr1": "chr1"}),  # equal names come first
        (["1", "Chr1"], ["chr1"], {}),  # two names for one contig
        (["1"], ["chr1", "Chr1"], {}),  # two contigs for one name
        (["M", "MT"], ["chrM"], {}),
        (["scaffold_1"], ["chr1"], {}),
    ],
)
def test_contigs_are_matched_only_without_doubt(named: list[str], genome: list[str], expected: dict[str, str]) -> None:
    assert match_contigs(named, genome) == expected


def test_other_spellings_are_said_in_one_line_and_foreign_files_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(tmp_path, "a.bed", "1\t0\t5\n2\t0\t5\n") == [("chr1", 0, 5, "", "", "."), ("chr2", 0, 5, "", "", ".")]
    said = capsys.readouterr().err
    assert said == f"{tmp_path}/a.bed: contigs are matched by another spelling: 1 is chr1, 2 is chr2\n"
    with pytest.raises(BadInput, match="the file names NC_000001.11, the genome has chr1"):
        read(tmp_path, "b.bed", "NC_000001.11\t0\t5\n")


@pytest.mark.parametrize("text", ["", "#chrom\tstart\n\n", "track name=x\n"])
def test_a_file_without_an_interval_is_said_or_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(tmp_path, "empty.bed", text) == []
    assert capsys.readouterr().err == f"{tmp_path}/empty.bed: lists no interval\n"
    with pytest.raises(BadInput, match="empty.bed: lists no interval"):
        list(located_features(tmp_path / "empty.bed", LENGTHS, may_be_empty=False))

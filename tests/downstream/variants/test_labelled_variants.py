"""The same variants from VCF, table and parquet; labels by value and by number; the public suites."""

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dnachunker.downstream.variants.labelled_variants import Condition, Label, numbers_of, read_variants
from dnachunker.downstream.variants.ranking import rank
from dnachunker.downstream.variants.variant_suites import FOLDER, load_variant_suite
from dnachunker.foundations.failures import BadInput

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def test_a_table_parquet_and_a_vcf_give_the_same_variants(tmp_path: Path) -> None:
    (tmp_path / "v.vcf").write_text(
        HEADER + "1\t5\t.\tA\tC,G\t.\t.\tlabel=yes,no;score=0.5,.;DB\n1\t9\tx\tA\tT\t3\t.\tlabel=a,b;score=2\n"
    )
    rows = [("1", 5, "A", "C", "yes", 0.5), ("1", 5, "A", "G", "no", None), ("1", 9, "A", "T", "a,b", 2.0)]
    names = ("#Chrom", "Position", "Ref", "ALT", "label", "score")
    with gzip.open(tmp_path / "v.tsv.gz", "wt") as file:
        for row in (names, *rows):
            file.write("\t".join("NA" if value is None else str(value) for value in row) + "\n")
    (tmp_path / "v.tsv.zst").write_bytes(zstandard.compress(gzip.decompress((tmp_path / "v.tsv.gz").read_bytes())))
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), tmp_path / "v.parquet")
    vcf = read_variants(tmp_path / "v.vcf", ["INFO/label", "INFO/score", "INFO/DB", "ID"])
    assert [row.values.get("INFO/DB") for row in vcf] == ["1", "1", None]
    assert [row.values.get("ID") for row in vcf] == [None, None, "x"]
    for name in ("v.tsv.gz", "v.tsv.zst", "v.parquet"):
        found = read_variants(tmp_path / name, ["label", "score"])
        for one, other in zip(vcf, found, strict=True):
            assert (one.fields[:2], one.fields[3:]) == (other.fields[:2], other.fields[3:])
            assert one.values["INFO/label"] == other.values["label"]
        scores = (numbers_of(tmp_path / name, found, "score"), numbers_of(tmp_path / name, vcf, "INFO/score"))
        np.testing.assert_array_equal(scores[0], [0.5, np.nan, 2.0])
        np.testing.assert_array_equal(scores[0], scores[1])


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("c=LOF", [True, False, False, None]),
        ("c=LOF,INT", [True, True, False, None]),
        ("c=LOF:FUNC", [True, None, False, None]),
        ("p<1e-5", [True, False, None, False]),
        ("p>=0.1", [False, True, None, True]),
    ],
)
def test_labels_name_the_positives_and_perhaps_the_negatives(
    tmp_path: Path, label: str, found: list[bool | None]
) -> None:
    (tmp_path / "v.csv").write_text(
        "chr,pos,ref,alt,c,p\n1,1,A,C,LOF,1e-9\n1,2,A,C,INT,0.1\n1,3,A,C,FUNC,\n1,4,A,C,.,1\n"
    )
    rows = read_variants(tmp_path / "v.csv", ["c", "p"])
    assert [Label.parse(label).of(row) for row in rows] == found


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.tsv", "chrom\tpos\tref\n", "needs one column 'alt'; it has 'chrom', 'pos', 'ref'"),
        ("v.csv", "chrom,chr,pos,ref,alt\n", "needs one column 'chrom'"),
        ("v.csv", "chrom,pos,ref,alt,c\n1,2,A,C\n", "line 2: 4 fields, but the header has 5"),
        ("v.csv", "chrom,pos,ref,alt,c\n1,two,A,C,x\n", "line 2: 'two' is not a position"),
        ("v.csv", "chrom,pos,ref,alt,d\n1,2,A,C,x\n", "no column 'c'; it has chrom, pos, ref, alt, d"),
        ("v.csv", "chrom,pos,ref,alt,c\n", "holds no variants"),
        ("v.vcf", HEADER + "1\t5\t.\tA\tC\t.\t.\td=1\n", "no column 'c'; it has ID, QUAL, FILTER, INFO/d"),
        ("v.parquet", "PAR1 not really", "not readable as parquet"),
    ],
)
def test_files_that_cannot_be_used_are_named_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=f"{name}: ") as caught:
        read_variants(tmp_path / name, ["c"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_suite_names_conditions_that_are_understood() -> None:
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    assert sorted(names) == ["brca1", "clinvar", "satmut", "traitgym"]
    for suite in map(load_variant_suite, names):
        Label.parse(suite.label)
        for condition in suite.only:
            Condition.parse(condition, "--only")
    with pytest.raises(BadInput, match="no such suite; there are brca1, clinvar"):
        load_variant_suite("brca2")


def test_phylop_and_cadd_on_brca1_are_as_published() -> None:
    root = os.environ.get("DNACHUNKER_TEST_DATA")
    folder = Path(root or "") / "brca1"
    if not root or not folder.is_dir():
        pytest.skip("DNACHUNKER_TEST_DATA is not set, or has no brca1/")
    suite = load_variant_suite("brca1")
    rows = read_variants(folder / suite.vcf, ["INFO/CLS", *suite.against])
    label = Label.parse(suite.label)
    labels = np.array([bool(label.of(row)) for row in rows])
    assert (len(labels), labels.sum()) == (3893, 823)
    for column, expected in (("INFO/PHYLOP", 0.781), ("INFO/CADD", 0.804)):
        found = rank(labels, np.array(numbers_of(folder / suite.vcf, rows, column)), resamples=100, seed=0).auroc
        assert found is not None
        assert found.value == pytest.approx(expected, abs=5e-4)
        assert found.low < expected < found.high

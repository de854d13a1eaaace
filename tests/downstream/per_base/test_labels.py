"""Classes of bases: priorities where genes overlap, strands, and the two ways to count coordinates."""

from pathlib import Path

import numpy as np
import pytest

from dnachunker.downstream.per_base.config import AnnotateConfig
from dnachunker.downstream.per_base.labels import IGNORED, class_names, paint, read_annotation
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import load_config

LENGTHS = {"chrI": 60, "chrM": 10}
# gene A has two exons on the forward strand; a tRNA lies on the other strand in its intron; gene B lies on the other
# strand, and its CDS overlaps the last exon of A
GTF = """\
I	x	gene	6	40	.	+	.	gene_id "A";
I	x	transcript	6	40	.	+	.	gene_id "A";
I	x	exon	6	15	.	+	.	gene_id "A";
I	x	exon	31	40	.	+	.	gene_id "A";
I	x	five_prime_utr	6	8	.	+	.	gene_id "A";
I	x	CDS	9	15	.	+	0	gene_id "A";
I	x	CDS	31	34	.	+	0	gene_id "A";
I	x	stop_codon	35	37	.	+	0	gene_id "A";
I	x	three_prime_utr	38	40	.	+	.	gene_id "A";
I	x	gene	21	25	.	-	.	gene_id "T";
I	x	transcript	21	25	.	-	.	gene_id "T";
I	x	exon	21	25	.	-	.	gene_id "T";
I	x	intron	1	60	.	+	.	gene_id "whatever a read spans";
I	x	gene	35	52	.	-	.	gene_id "B";
I	x	transcript	35	50	.	-	.	gene_id "B";
I	x	exon	35	50	.	-	.	gene_id "B";
I	x	CDS	37	48	.	-	0	gene_id "B";
"""
LETTERS = "\
.....UUUCCCCCCCiiiiixxxxxiiiiiCCCCCCCCCCCCCCCCCCxxxx........"


def config(*overrides: str) -> AnnotateConfig:
    return load_config(AnnotateConfig, "annotate", overrides, kind="downstream")


def spelled(labels: np.ndarray, letters: str) -> str:
    return "".join("x" if label == IGNORED else letters[label] for label in labels)


def test_overlapping_genes_follow_the_list_of_priorities(tmp_path: Path) -> None:
    path = tmp_path / "genes.gtf"
    path.write_text(GTF)
    features = read_annotation([path], LENGTHS, config())
    labels = paint(features, LENGTHS, config(), strands=False)
    assert labels.classes == ("CDS", "UTR", "intron", "intergenic")
    assert spelled(labels.by_contig["chrI"], "CUi.") == LETTERS
    assert spelled(labels.by_contig["chrM"], "CUi.") == "." * 10

    without = paint(features, LENGTHS, config("ignore=[UTR]"), strands=False)
    assert without.classes == ("CDS", "intron", "intergenic")
    assert spelled(without.by_contig["chrI"], "Ci.") == LETTERS.replace("U", "x")


def test_with_strands_the_other_strand_has_the_other_class_and_a_tie_has_none(tmp_path: Path) -> None:
    path = tmp_path / "genes.gtf"
    path.write_text(GTF)
    labels = paint(read_annotation([path], LENGTHS, config()), LENGTHS, config(), strands=True)
    assert labels.classes == ("CDS+", "CDS-", "UTR+", "UTR-", "intron+", "intron-", "intergenic")
    assert labels.opposite.tolist() == [1, 0, 3, 2, 5, 4, 6]
    # base 36 is CDS on both strands
    expected = LETTERS[:36] + "x" + "c" * 11 + LETTERS[48:]
    assert spelled(labels.by_contig["chrI"], "CcUuiI.") == expected


def test_bed_counts_from_zero_and_gtf_from_one(tmp_path: Path) -> None:
    bed, gtf = tmp_path / "a.bed", tmp_path / "a.gtf"
    bed.write_text("chrI\t4\t9\tCDS\t0\t-\n")
    gtf.write_text('I\tx\tCDS\t5\t9\t.\t-\t0\tgene_id "A";\n')
    painted = [
        paint(read_annotation([path], LENGTHS, config()), LENGTHS, config(), strands=True) for path in (bed, gtf)
    ]
    for labels in painted:
        assert spelled(labels.by_contig["chrI"], "CcUuiI.") == "." * 4 + "c" * 5 + "." * 51


def test_an_unknown_class_to_ignore_is_named() -> None:
    with pytest.raises(BadInput, match="ignore: 'utr' is no class; it may name CDS, UTR, intron"):
        class_names(config("ignore=[utr]"))

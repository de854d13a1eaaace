"""Annotations: which records are features, and which features overlap a region."""

from pathlib import Path

import numpy as np
import pytest

from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.annotations import FeatureIndex, read_features
from dnachunker.foundations.failures import BadInput

LENGTHS = {"chr1": 1000, "chrY": 800}
GFF = """\
##gff-version 3
chr1	RefSeq	region	1	1000	.	+	.	ID=chr1;gbkey=Src
chrY	ensembl	chromosome	100	700	.	.	.	ID=chromosome:Y
chr1	x	gene	101	300	.	+	.	ID=g
chr1	x	exon	101	200	.	+	.	ID=e
chr1	x	region	101	200	.	+	.	ID=r
"""


def test_records_of_whole_contigs_are_no_features_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "genes.gff3"
    path.write_text(GFF)
    assert [feature.kind for feature in read_features(path, LENGTHS)] == ["gene", "exon", "region"]
    assert [feature.kind for feature in read_features(path, LENGTHS, kinds=["exon"])] == ["exon"]
    assert len(read_features(path, LENGTHS, kinds=["region", "chromosome"])) == 3
    assert read_features(path, LENGTHS, [Region("chrY", 0, 800)], ["exon"]) == []
    with pytest.raises(BadInput, match="no feature of kind CDS; the kinds are chromosome, exon, gene, region"):
        read_features(path, LENGTHS, kinds=["CDS"])
    path.write_text(GFF.splitlines()[0] + "\nchr1\tx\tchromosome\t1\t9\t.\t+\t.\tID=c\n")
    assert read_features(path, {"chr1": 9}) == []
    assert "genes.gff3: all its records stand for whole contigs" in capsys.readouterr().err


def test_overlaps_equal_a_scan_of_everything(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    features = [
        Feature(str(random.choice(["chr1", "chrY"])), int(start), int(start + size), "k", "n", "+", line)
        for line, (start, size) in enumerate(
            zip(random.integers(0, 600, 300), random.integers(1, 200, 300), strict=True), 1
        )
    ]
    path = tmp_path / "a.bed"
    path.write_text("".join(f"{f.contig}\t{f.start}\t{f.end}\tk\t0\t+\n" for f in features))
    regions = [Region("chr1", 10, 11), Region("chr1", 300, 340), Region("chr1", 340, 350), Region("chrY", 700, 800)]

    def overlaps(feature: Feature, region: Region) -> bool:
        return feature.contig == region.contig and feature.start < region.end and region.start < feature.end

    found = read_features(path, LENGTHS, regions)
    assert [f.line for f in found] == [f.line for f in features if any(overlaps(f, r) for r in regions)]
    index = FeatureIndex(features)
    for region in regions:
        expected = sorted(f.line for f in features if overlaps(f, region))
        assert sorted(f.line for f in index.overlapping(region)) == expected

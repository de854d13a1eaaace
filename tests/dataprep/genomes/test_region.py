"""A region is what samtools reads; a text with two meanings is refused."""

import pytest

from dnachunker.dataprep.genomes.region import Region, parse_region
from dnachunker.foundations.failures import BadInput


def test_regions_are_read_as_samtools_writes_them() -> None:
    lengths = {"chr1": 2000, "HLA:1": 9, "x:1-5": 7}
    assert parse_region("chr1:1,001-2,000", lengths) == Region("chr1", 1000, 2000)
    assert parse_region("HLA:1", lengths) == Region("HLA:1", 0, 9)
    assert parse_region("HLA:1:2-3", lengths) == Region("HLA:1", 1, 3)
    assert parse_region("x:1-5", lengths) == Region("x:1-5", 0, 7)
    for text in ("chr2", "chr1:٣-٩", "chr1:-1-5", "chr1:1", ""):
        assert parse_region(text, lengths) is None
    with pytest.raises(BadInput, match="'x:1-5': a contig, and a part of the contig x too"):
        parse_region("x:1-5", {**lengths, "x": 10})
    with pytest.raises(BadInput, match="chr1:1-9+ does not lie in chr1"):
        parse_region(f"chr1:1-{'9' * 25}", lengths)

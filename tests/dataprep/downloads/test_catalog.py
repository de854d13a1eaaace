"""The catalog of genomes, and the lists of genomes that users write."""

from pathlib import Path

import pytest

from dnachunker.dataprep.config import BedSplit, CorpusConfig
from dnachunker.dataprep.downloads.catalog import GenomeEntry, find_genome, read_catalog, read_list
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import load_config


def test_the_catalog_is_sound() -> None:
    entries = read_catalog()
    assert {"hg38", "hs1", "mm39", "rn7", "danRer11", "dm6", "ce11", "sacCer3", "galGal6", "xenTro10"} <= {
        entry.name for entry in entries
    }
    for entry in entries:
        assert entry.species
        assert entry.clade
        assert entry.citation
        assert entry.licence
        assert (entry.url or "https://").startswith("https://")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no header line"),
        ("name\turll\nx\thttps://a/b\n", "unknown column 'urll' .nearest: url."),
        ("name\turl\tassembly\nx\t\t\n", "line 2: give either `url` or `accession`"),
        ("name\turl\nx\t/etc/passwd\n", "line 2: '/etc/passwd' is not a URL"),
        ("accession\nGCF_1.2\n", "line 2: 'GCF_1.2' is not an accession"),
        ("name\turl\tintervals\nx\thttps://a/b\tsplits.bed\n", "line 2: intervals 'splits.bed' is not a URL"),
        ("#c\n\nname\turl\nx\thttps://a/b\nx\thttps://a/c\n", "line 5: genome x again"),
        ("url\nhttps://a/b\n", "needs a `name`"),
        ("name\tname\turl\nx\ty\thttps://a/b\n", "a column occurs twice"),
        ("name\turl\nx\x1b[2J\thttps://a/b\n", "line 2: the name 'x.x1b.2J' holds a control character"),
        ("name\turl\nx\thttps://a/b\tmore\n", "3 cells under 2 columns"),
    ],
)
def test_a_wrong_list_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_list(tmp_path / "list.tsv")


def test_an_unknown_genome_is_told_the_nearest() -> None:
    with pytest.raises(BadInput, match="nearest: hg38"):
        find_genome("hg83")
    with pytest.raises(BadInput, match="with its version"):
        find_genome("GCF_000005845")
    assert find_genome("x", [GenomeEntry(name="x", url="https://a/b")]).url == "https://a/b"


def test_the_preset_of_the_human_genome_reads_the_intervals_of_the_catalog() -> None:
    config = load_config(CorpusConfig, "hg38", kind="corpus")
    assert isinstance(config.split, BedSplit)
    assert config.split.path == find_genome("hg38").intervals

"""Real genomes, named by DNACHUNKER_TEST_DATA: human with soft-mask and N, yeast with seventeen contigs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.verify import verify_corpus

GENOMES = Path(os.environ.get("DNACHUNKER_TEST_DATA", "/nonexistent")) / "genomes"
HUMAN, YEAST = GENOMES / "hg38.chr2_1-2333275.fa.gz", GENOMES / "sacCer3.fa.gz"

pytestmark = pytest.mark.skipif(
    not (HUMAN.is_file() and YEAST.is_file()), reason="DNACHUNKER_TEST_DATA does not name a folder with the genomes"
)


def test_human_and_yeast_in_one_corpus(
    tmp_path: Path, reassemble: Callable[..., dict[str, str]], read_fasta: Callable[[Any], dict[str, str]]
) -> None:
    config = CorpusConfig(
        sources={
            "hg38": {
                "path": str(HUMAN),
                "species": "Homo sapiens",
                "split": {"kind": "hash", "tile": 65536, "valid": 0.1, "test": 0.1},
            },
            "sacCer3": {
                "path": str(YEAST),
                "species": "Saccharomyces cerevisiae",
                "split": {"kind": "contigs", "splits": {"valid": ["chrXVI"]}},
            },
        },
        block_bases=2**18,
        shard_bases=2**22,
    )
    summary = build_corpus(config, tmp_path / "corpus", workers=0, quiet=True)
    corpus = Corpus.open(tmp_path / "corpus")
    assert verify_corpus(corpus) == []
    human_letters = read_fasta(HUMAN)["chr2"]
    assert human_letters[:10_000] == "N" * 10_000  # the telomere's gap is the only one; it is left out
    assert reassemble(corpus, "hg38") == {"chr2": "." * 10_000 + human_letters[10_000:]}
    assert [(row.source, row.reason, row.blocks, row.bases) for row in corpus.index.dropped] == [
        ("hg38", "gap", 1, 10_000)
    ]
    assert reassemble(corpus, "sacCer3") == read_fasta(YEAST)
    assert summary.bits_per_base <= 2.02
    human = corpus.sources[0]
    assert (human.bases_in_splits, human.n_bases) == (2_323_275, 0)
    assert human.soft_masked == 242_741 + 175_527 + 175_275 + 237_964
    valid = corpus.blocks("valid")
    assert set(valid.contig[valid.source == "sacCer3"].tolist()) == {"chrXVI"}
    assert set(valid.species.tolist()) == {"Homo sapiens", "Saccharomyces cerevisiae"}

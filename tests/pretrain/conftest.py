"""A small corpus of three made-up genomes with N, soft-masked stretches and short contigs, in many shards."""

from pathlib import Path

import numpy as np
import pytest

from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.index import Corpus

GENOMES = {"alpha": [60_000, 900, 41_500], "beta": [30_000], "gamma": [7_000, 7_001]}


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Blocks of at most 4,096 bases, about 16 kb of bases a shard; splits train and valid."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    for name, lengths in GENOMES.items():
        records = []
        for number, length in enumerate(lengths):
            letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, length)].copy()
            for start in rng.integers(0, length, length // 800):
                letters[start : start + 90] |= 32
            letters[length // 3 : length // 3 + 17] = ord("N")
            records.append(f">{name}{number}\n{letters.tobytes().decode()}\n")
        (folder / f"{name}.fa").write_text("".join(records))
    config = CorpusConfig(
        sources={name: {"path": str(folder / f"{name}.fa"), "species": name} for name in GENOMES},
        split={"kind": "hash", "tile": 8192, "valid": 0.1},
        block_bases=4096,
        shard_bases=16_384,
        min_bases=1,
        n_gap=0,
        max_n=1.0,
        duplicates="keep",
    )
    return build_corpus(config, folder / "corpus", workers=0, quiet=True).corpus


@pytest.fixture
def toy_folder(toy_corpus: Corpus) -> Path:
    """The folder of the corpus."""
    return Path(toy_corpus.path)

"""Fixtures that start training ranks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_ranks import Ranks


@pytest.fixture(scope="session")
def ranks(sample_corpus: Path) -> Iterator[Ranks]:
    """The server that starts training ranks in seconds."""
    server = Ranks(sample_corpus)
    yield server
    server.close()


@pytest.fixture(scope="session")
def quiet(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two ranks without any fault."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    ranks.finish(run)
    return run


@pytest.fixture(scope="session")
def other_corpus(tmp_path_factory: pytest.TempPathFactory, dnachunker: Any) -> Path:
    """A corpus of the embedded sample in which another part is held out."""
    corpus = tmp_path_factory.mktemp("other") / "corpus"
    done = dnachunker("shard", "--config", "sample", "--output", corpus, "split.valid=0.2")
    assert done.returncode == 0, done.stderr
    return corpus

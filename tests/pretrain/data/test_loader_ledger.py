"""Killed at random and resumed under other world sizes, the loader still delivers each base once, to the byte."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import interrupted_loading
import pytest
from loader_ledger import curriculum, drawn, loader

from dnachunker.dataprep.corpus.index import Corpus


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_ledger_of_an_epoch_survives_twenty_kills(toy_corpus: Corpus, workers: int) -> None:
    order = curriculum(toy_corpus, **interrupted_loading.FINE)
    windows = order.phase(0).order.epoch_windows(0)
    steps = -(-windows // interrupted_loading.FINE["global_batch"])
    expected = drawn(loader(toy_corpus, order, end_step=steps), steps)

    script = Path(interrupted_loading.__file__)
    program = [sys.executable, script, toy_corpus.path, workers, 20, 5 + workers, steps]
    # named, because Python looks into a script's own folder only where PYTHONSAFEPATH is not set
    places = os.pathsep.join([str(Path(__file__).resolve().parents[3]), str(script.parent)])
    done = subprocess.run(
        list(map(str, program)), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": places}
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 20
    assert set(result["world_sizes"]) == {1, 2}
    assert len(set(result["resumed_at"])) > 6, "the kills came too early to interrupt anything"
    assert result["steps"] == [{str(sample): line for sample, line in lines.items()} for lines in expected]

    in_epoch = [line.split()[0] for lines in expected for line in lines.values()][:windows]
    assert max(Counter(in_epoch).values()) == 1
    spans = [tuple(map(int, where.partition(":")[2][:-3].split("-"))) for where in in_epoch]
    assert sum(last - first + 1 for first, last in spans) == toy_corpus.index.splits["train"].bases

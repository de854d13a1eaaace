"""Planted windows: what is masked at the end can be read at the beginning only."""

import importlib.util
from pathlib import Path

import torch

from dnachunker.model.alphabet import FIRST_BASE_ID, MASK_ID

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "downstream" / "planted_pairs.py"


def test_masked_runs_at_the_end_repeat_the_runs_at_the_beginning() -> None:
    spec = importlib.util.spec_from_file_location("planted_pairs", SCRIPT)
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    ids, labels = script.planted(16, 1024, seed=0)
    assert torch.equal(ids == MASK_ID, labels != -100)
    word = "".join("ACGT"[code] for code in script.WORD)
    chosen = set()
    for window, truth in zip(ids, labels, strict=True):
        base = {"ACGT"[int(label) - FIRST_BASE_ID] for label in truth[truth != -100]}
        letters = "".join("ACGT"[int(code) - FIRST_BASE_ID] if code != MASK_ID else "-" for code in window)
        site = word + script.RUN * base.pop()
        assert not base
        assert letters[:128].count(site) == letters[-128:].count(word + "-") == script.SITES
        assert site not in letters[128:]
        chosen.add(site[-1])
    assert chosen == set("ACGT")

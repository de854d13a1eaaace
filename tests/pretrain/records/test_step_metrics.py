"""Figures of a step that are computed rather than read off: chunk lengths, utilisation, cached baselines."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dnachunker.dataprep.corpus.markov import MarkovTables
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import flops_per_base
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.records.speed import Speed
from dnachunker.pretrain.records.step_metrics import ChunkLengths, _length_histogram, _percentiles

TWO = Rank(0, 2, 0, torch.device("cpu"))


def test_chunk_lengths_leave_out_pads_and_keep_sequences_apart() -> None:
    ids = torch.tensor([[0, 0, 0, 1, 2, 2], [0, 1, 1, 1, -1, -1]])
    histogram = _length_histogram(ids)
    assert {length: int(n) for length, n in enumerate(histogram.tolist()) if n} == {1: 2, 2: 1, 3: 2}
    assert _percentiles(histogram.numpy()) == ChunkLengths(p10=1.0, p50=2.0, p90=3.0)
    assert _length_histogram(torch.zeros(1, 500, dtype=torch.long))[64] == 1


def test_utilisation_is_model_flops_over_what_all_devices_can_do() -> None:
    network = DNAChunkerConfig()
    rates = Speed(network, TWO, matrix_rate=1e12).of_step(1e6, 8192, (0.5, 0.6), seconds=4.0)
    flops = flops_per_base(network, 8192, (0.5, 0.3)).total
    assert rates["utilisation"] == pytest.approx(flops * 1e6 / 4 / 2 / 1e12)
    assert rates["bases_per_second"] == 2 * rates["bases_per_second_per_device"] == 250_000


def test_baselines_are_counted_once_for_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    codes = np.tile(np.array([0, 1, 2, 3, 3], np.uint8), 200)
    first = MarkovTables.cached("a", lambda: [codes])
    again = MarkovTables.cached("a", lambda: pytest.fail("counted again"))
    assert (first.losses(codes, 3) == again.losses(codes, 3)).all()
    stored = next((tmp_path / "dnachunker").iterdir())
    stored.write_bytes(stored.read_bytes()[:100])
    assert (MarkovTables.cached("a", lambda: [codes]).losses(codes, 3) == first.losses(codes, 3)).all()

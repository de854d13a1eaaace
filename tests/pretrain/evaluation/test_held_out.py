"""Held-out evaluation through its own entry point, with a model in the place of the training engine."""

from typing import Any

import numpy as np
import pytest
import torch

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.markov import MarkovTables
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.data.masking import MaskingRates
from dnachunker.pretrain.data.objective import MaskedBases
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.evaluation.held_out import HeldOut
from dnachunker.pretrain.order.sample_order import held_out_windows


class Engine:
    def __init__(self, **changes: object) -> None:
        torch.manual_seed(0)
        sizes = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 1, "num_heads": 2}
        self.network = DNAChunkerForMaskedLM(DNAChunkerConfig(**{**sizes, **changes}))
        with torch.no_grad():  # away from initial values, where all predictions are much alike
            for parameter in self.network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)

    def forward(self, **inputs: torch.Tensor) -> Any:
        return self.network(**inputs)

    def train(self, mode: bool = True) -> None:
        self.network.train(mode)


def masked_loss(corpus: Corpus, engine: Engine, average_strands: bool) -> float:
    reader = WindowReader(corpus, "valid")
    windows = held_out_windows(reader.block_bases, seq_len=200, count=6)
    held_out = HeldOut(
        reader, windows, np.repeat("beta", len(windows)), MaskedBases(MaskingRates()), MarkovTables.counted([]),
        Rank(0, 1, 0, torch.device("cpu")), seq_len=200, micro_batch=4, average_strands=average_strands,
    )  # fmt: skip
    return held_out.evaluate(engine)["masked_loss"]  # type: ignore[arg-type]


def test_averaging_strands_matters_to_a_plain_model_alone(toy_corpus: Corpus) -> None:
    plain, symmetric = Engine(), Engine(strand_symmetry=True)
    assert abs(masked_loss(toy_corpus, plain, True) - masked_loss(toy_corpus, plain, False)) > 1e-3
    averaged = masked_loss(toy_corpus, symmetric, True)
    assert averaged == pytest.approx(masked_loss(toy_corpus, symmetric, False), abs=1e-6)

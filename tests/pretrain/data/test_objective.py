"""The next-base objective: its inputs, its labels, and the positions on which it is judged."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dnachunker.dataprep.corpus.markov import MarkovTables
from dnachunker.model.alphabet import BOS_ID, CODE_N, CODE_PAD, PAD_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
from dnachunker.pretrain.config import MaskingSettings, ModelSettings
from dnachunker.pretrain.data.headline import NEXT_BASE, headline_of
from dnachunker.pretrain.data.masking import IGNORED_LABEL
from dnachunker.pretrain.data.objective import MaskedBases, NextBase, objective_of
from dnachunker.pretrain.evaluation.diagnostics import summarise, warnings_of, window_sums

REPEAT = 8
KEYS = torch.zeros(2, dtype=torch.int64)
OBJECTIVE = NextBase(repeat_weight=0.1)


def windows() -> Tensor:
    """Two windows of nine bases: one with an N and a repeat, one that ends early."""
    rows = [[0, 1, 2, 3, CODE_N, 0 | REPEAT, 1 | REPEAT, 2, 3], [3, 3, 1, 0, 2, 2, CODE_PAD, CODE_PAD, CODE_PAD]]
    return torch.tensor(rows, dtype=torch.uint8)


def build() -> DNAChunkerForCausalLM:
    torch.manual_seed(0)
    sizes = {"width": 16, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 1, "num_heads": 2}
    return DNAChunkerForCausalLM(DNAChunkerConfig(**sizes, causal=True)).eval()


def test_every_known_base_is_a_label_and_nothing_is_changed() -> None:
    batch = OBJECTIVE.batch(windows(), KEYS)
    assert batch.input_ids.tolist() == [
        [BOS_ID, 7, 8, 9, 10, 11, 7, 8, 9, 10],
        [BOS_ID, 10, 10, 8, 7, 9, 9, *[PAD_ID] * 3],
    ]
    ignored = IGNORED_LABEL
    assert batch.labels.tolist() == [
        [ignored, 7, 8, 9, 10, ignored, 7, 8, 9, 10],
        [ignored, 10, 10, 8, 7, 9, 9, ignored, ignored, ignored],
    ]
    assert batch.loss_weights.flatten().tolist() == pytest.approx(
        [0, 1, 1, 1, 1, 0, 0.1, 0.1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    )
    assert batch.attention_mask.sum(1).tolist() == [10, 7]
    plain = OBJECTIVE.plain_inputs(windows())
    assert torch.equal(plain["input_ids"], batch.input_ids)
    assert torch.equal(plain["attention_mask"], batch.attention_mask)


def test_the_judge_gives_the_models_own_loss_on_the_positions_of_the_baselines() -> None:
    batch, model = OBJECTIVE.batch(windows(), KEYS), build()
    with torch.no_grad():
        output = model(
            batch.input_ids, batch.attention_mask, labels=batch.labels, loss_weights=batch.loss_weights,
            loss_normalizer=batch.weight_sum,
        )  # fmt: skip
    judged = OBJECTIVE.judge(batch, output.logits)
    weighted = (judged.losses * batch.loss_weights[:, 1:]).sum() / batch.loss_weights.sum()
    torch.testing.assert_close(weighted, output.next_base_loss)
    tables = MarkovTables.counted([windows().flatten().numpy() & 7])
    for row, scored in zip(windows().numpy() & 7, judged.scored.numpy(), strict=True):
        assert np.array_equal(np.isfinite(tables.losses(row, 3)), scored)  # the same bases have a baseline
    assert judged.is_repeat[0].tolist() == [False] * 5 + [True] * 2 + [False] * 2
    answers = torch.nn.functional.one_hot(batch.input_ids, 16).float().roll(-1, dims=1) * 50
    perfect = OBJECTIVE.judge(batch, answers)
    assert perfect.losses.max() < 1e-6
    assert torch.equal(perfect.correct, perfect.scored)


def test_diagnostics_of_a_causal_model_speak_of_the_next_base_and_never_of_masks() -> None:
    model = build()
    codes = torch.randint(0, 4, (3, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = OBJECTIVE.batch(codes, torch.zeros(3, dtype=torch.int64))
    names, sums = window_sums(model, batch, OBJECTIVE)
    found = summarise(names, sums.sum(0), NEXT_BASE)
    assert headline_of(found) == NEXT_BASE
    with torch.no_grad():
        output = model(batch.input_ids, labels=batch.labels)
        later = model(batch.input_ids[:, [0, *range(2, 81)]]).boundaries[0]  # the first base gone, [BOS] kept
    assert found["next_base_loss"] == pytest.approx(float(output.next_base_loss), rel=1e-5)
    first, second = output.boundaries[0][:, 2:], later[:, 1:]
    assert found["shift_overlap_stage0"] == pytest.approx(int((first & second).sum()) / int((first | second).sum()))
    learnt = {**found, "order0": 9.0, "trunk_mean_cost": 0.0, "trunk_shuffle_cost": 0.0}
    names = {warning.name for warning in warnings_of(learnt)}
    assert "idle_trunk" in names
    assert "mask_leakage" not in names


def test_the_objective_follows_from_the_model() -> None:
    assert isinstance(objective_of(MaskingSettings(), causal=False), MaskedBases)
    assert isinstance(objective_of(MaskingSettings(), causal=True), NextBase)
    with pytest.raises(ValueError, match="looks ahead"):
        ModelSettings(causal=True, mixer="transformer")

"""With `strand_symmetry` the reverse complement of a sequence gets the mirror image of its results."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnachunker.model.alphabet import MASK_ID, N_ID, PAD_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import flops_per_base
from dnachunker.model.modeling_dnachunker import (
    DNAChunkerForMaskedLM,
    DNAChunkerForSequenceClassification,
    DNAChunkerModel,
    DNAChunkerPreTrainedModel,
)

SMALL = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 2, "num_heads": 2}
ACROSS = {7: 10, 8: 9, 9: 8, 10: 7}  # A T, C G


def build(
    kind: type[DNAChunkerPreTrainedModel] = DNAChunkerForMaskedLM, **changes: object
) -> DNAChunkerPreTrainedModel:
    torch.manual_seed(0)
    model = kind(DNAChunkerConfig(**{**SMALL, "strand_symmetry": True, **changes})).eval()
    with torch.no_grad():  # away from initial values, so that strands differ and boundaries vary
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def ragged(lengths: Sequence[int], seed: int, pads: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths) + pads)
    ids = torch.randint(7, 11, shape, generator=generator)
    chance = torch.rand(shape, generator=generator)
    ids[chance < 0.15], ids[chance > 0.9] = MASK_ID, N_ID
    return torch.where(torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1), ids, PAD_ID)


def reverse_complement(ids: Tensor, lengths: Sequence[int]) -> Tensor:
    turned = ids.clone()
    for row, length in enumerate(lengths):
        letters = [ACROSS.get(int(token), int(token)) for token in ids[row, :length].flip(0)]
        turned[row, :length] = torch.tensor(letters, dtype=torch.long)
    return turned


def mirror(values: Tensor, lengths: Sequence[int], borders: bool = False) -> Tensor:
    """Values per base in reverse order; `borders`: values before each base, where the first one stays."""
    turned = values.clone()
    for row, length in enumerate(lengths):
        turned[row, int(borders) : length] = values[row, int(borders) : length].flip(0)
    return turned


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=4).filter(any), st.integers(0, 9), st.integers(0, 9999))
@pytest.mark.parametrize(
    ("changes", "capacity"),
    [({}, None), ({"chunk_pooling": "mean", "mask_protection": False}, None), ({"mixer": "conv"}, None),
     ({}, (1.0, 1.0))],
    ids=["paper", "mean_unprotected", "conv", "capacity"],
)  # fmt: skip
def test_the_reverse_complement_gets_the_mirror_image(
    changes: dict[str, object], capacity: tuple[float, float] | None, lengths: list[int], pads: int, seed: int
) -> None:
    model = build(**changes)
    ids = ragged(lengths, seed, pads)
    both = (ids, reverse_complement(ids, lengths))
    with torch.no_grad():
        there, back = (model(x, chunk_capacity=capacity) for x in both)
        ratio, ratio_back = (model(x, labels=x, chunk_capacity=capacity).ratio_loss for x in both)
        hidden, turned = (model.dnachunker(x, chunk_capacity=capacity).last_hidden_state for x in both)
    expected = mirror(there.logits, lengths)
    expected[..., 7:11] = expected[..., 7:11].flip(-1)
    assert (back.logits - expected).abs().max() <= 1e-5
    assert (turned - mirror(hidden, lengths)).abs().max() <= 1e-5
    assert torch.equal(back.boundaries[0], mirror(there.boundaries[0], lengths, borders=True))
    assert torch.equal(back.boundaries[1], mirror(there.boundaries[1], lengths, borders=True))
    for stage in range(2):
        probabilities = mirror(there.boundary_probabilities[stage], lengths, borders=True)
        assert (back.boundary_probabilities[stage] - probabilities).abs().max() <= 1e-5
        assert torch.equal(back.chunk_counts[stage], there.chunk_counts[stage])
        assert torch.equal(back.forced_counts[stage], there.forced_counts[stage])
        counts = there.chunk_counts[stage].unsqueeze(1)
        opposite = torch.where(there.chunk_ids[stage] < 0, -1, counts - 1 - there.chunk_ids[stage])
        assert torch.equal(back.chunk_ids[stage], mirror(opposite, lengths))
    assert abs(float(ratio_back - ratio)) <= 1e-5


def test_without_the_switch_strands_disagree() -> None:
    """The property above does not hold for every network."""
    ids = ragged([60], 0)
    with torch.no_grad():
        there, back = (build(strand_symmetry=False)(x).logits for x in (ids, reverse_complement(ids, [60])))
    expected = mirror(there, [60])
    expected[..., 7:11] = expected[..., 7:11].flip(-1)
    assert (back - expected).abs().max() > 0.1


def test_classes_do_not_depend_on_the_strand() -> None:
    model = build(DNAChunkerForSequenceClassification, num_labels=3)
    lengths = [50, 1, 33]
    ids = ragged(lengths, 4, pads=3)
    with torch.no_grad():
        there, back = (model(x) for x in (ids, reverse_complement(ids, lengths)))
    assert there.logits.shape == (3, 3)
    assert (there.logits - back.logits).abs().max() <= 1e-5


def test_given_boundaries_are_borders_of_both_strands() -> None:
    model = build(router="fixed")
    lengths = [40, 23]
    ids = ragged(lengths, 2)
    every = [(torch.arange(40) % k == 0).expand(2, 40) for k in (3, 6)]
    turned = [mirror(cuts, lengths, borders=True) for cuts in every]
    with torch.no_grad():
        there = model(ids, boundaries=every)
        back = model(reverse_complement(ids, lengths), boundaries=turned)
    masks = ids == MASK_ID
    forced = masks | masks.roll(1, dims=1)
    assert torch.equal(there.boundaries[0], (every[0] | forced) & (ids != PAD_ID))
    expected = mirror(there.logits, lengths)
    expected[..., 7:11] = expected[..., 7:11].flip(-1)
    assert (back.logits - expected).abs().max() <= 1e-5


def test_batch_mates_and_micro_batches_change_nothing() -> None:
    model = build()
    lengths = [50, 31, 0, 44]
    ids = ragged(lengths, 5, pads=2)
    labels = torch.where(ids == MASK_ID, 8, -100)
    whole = model(ids, labels=labels, loss_normalizer=9.0, sequence_normalizer=4)
    assert abs((whole.loss - model(ids, labels=labels, loss_normalizer=9.0).loss).item()) <= 1e-6
    pieces = [
        model(a, labels=b, loss_normalizer=9.0, sequence_normalizer=4)
        for a, b in zip(ids.split(2), labels.split(2), strict=True)
    ]
    assert sum(piece.loss.item() for piece in pieces) == pytest.approx(whole.loss.item(), rel=1e-6)
    assert (torch.cat([piece.logits for piece in pieces]) - whole.logits).abs().max() <= 1e-5
    shifted = torch.cat((torch.full((4, 3), PAD_ID), ids), dim=1)  # pads may lie anywhere
    assert (model(shifted).logits[:, 3:] - whole.logits).abs().max() <= 1e-5


def test_it_trains_and_every_parameter_takes_part() -> None:
    model = build().train()
    truth = (torch.arange(64) % 5 % 4 + 7).expand(4, 64)  # periodic: easy to learn
    ids = torch.where(torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) < 0.15, MASK_ID, truth)
    labels = torch.where(ids == MASK_ID, truth, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        output = model(ids, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(output.mlm_loss.item())
    assert losses[-1] < 0.5 * losses[0]


LOAD = """
import sys, torch
from transformers import AutoModelForMaskedLM

torch.set_num_threads(1)
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules")
saved = torch.load(sys.argv[2])
with torch.no_grad():
    assert torch.allclose(model(saved["ids"]).logits, saved["logits"], atol=1e-6)
"""


def test_a_saved_folder_loads_as_remote_code(tmp_path: Path) -> None:
    model, ids = build(), ragged([40, 25], 3)
    model.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        torch.save({"ids": ids, "logits": model(ids).logits}, tmp_path / "expected.pt")
    command = [sys.executable, "-I", "-c", LOAD, tmp_path / "saved", tmp_path / "expected.pt"]
    # a fresh process: remote code of an earlier test in this one would be found instead
    subprocess.run(command, check=True, env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"})


def test_levels_are_per_base_and_the_cost_is_double() -> None:
    model = build(DNAChunkerModel)
    with torch.no_grad():
        output = model(ragged([30, 20], 1), output_hidden_states=True)
    assert [tuple(level.shape) for level in output.hidden_states] == [(2, 30, 32)] * 5
    plain, both = (DNAChunkerConfig(**SMALL, strand_symmetry=symmetric) for symmetric in (False, True))
    assert flops_per_base(both, 100, (0.5, 0.3)).total == 2 * flops_per_base(plain, 100, (0.5, 0.3)).total

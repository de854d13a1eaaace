"""Diagnostics: what they measure is exact, does not depend on batching, and warns of models broken on purpose."""

import math

import pytest
import torch
from torch import Tensor

from dnachunker.model.alphabet import FIRST_BASE_ID, MASK_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.packing import Packing
from dnachunker.pretrain.data.masking import Batch, MaskingRates, corrupt
from dnachunker.pretrain.evaluation.diagnostics import (
    diagnose,
    mean_in_class,
    shuffle_in_class,
    summarise,
    uncorrupted,
    warnings_of,
    window_sums,
)
from dnachunker.pretrain.evaluation.trunk_replacement import trunk_replaced

SIZES = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 1, "num_heads": 2}


def build(**changes: object) -> DNAChunkerForMaskedLM:
    torch.manual_seed(0)
    return DNAChunkerForMaskedLM(DNAChunkerConfig(**{**SIZES, **changes}))


def batch_of(windows: int, length: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 4, (windows, length), generator=generator).to(torch.uint8)
    codes[:, length // 2 :] |= 8  # the second half is a repeat
    return corrupt(codes, torch.arange(windows), MaskingRates(select=0.3))


def rows(batch: Batch, chosen: slice) -> Batch:
    fields = ("input_ids", "attention_mask", "labels", "loss_weights", "is_repeat")
    return Batch(*(getattr(batch, name)[chosen] for name in fields))


def chunks_of(lengths: list[int], holds_mask: list[bool]) -> tuple[Packing, torch.Tensor]:
    return Packing(torch.tensor([0, *lengths]).cumsum(0).int(), sum(lengths)), torch.tensor(holds_mask)


def test_replacements_stay_inside_the_sequence_and_the_class() -> None:
    mask = [True, False, False, False, True, False, False, True, False]
    chunks = chunks_of([6, 3], mask)
    x = torch.arange(9.0).unsqueeze(-1)
    assert mean_in_class(x, *chunks)[:, 0].tolist() == [2, 2.75, 2.75, 2.75, 2, 2.75, 7, 7, 7]
    moved = shuffle_in_class(x, *chunks)[:, 0].long()
    group = torch.tensor([2 * (i >= 6) + m for i, m in enumerate(mask)])
    assert torch.equal(group[moved], group)
    assert sorted(moved.tolist()) == list(range(9))
    alone = shuffle_in_class(x[:6], *chunks_of([6], mask[:6]))[:, 0].long()
    assert torch.equal(alone, moved[:6])
    long = torch.arange(400.0).unsqueeze(-1)
    stayed = shuffle_in_class(long, *chunks_of([400], [False] * 400)) == long
    assert stayed.float().mean() < 0.05


def test_replacing_the_trunk_ends_with_the_context_and_needs_a_trunk() -> None:
    model, ids = build().eval(), batch_of(2, 40).input_ids
    with torch.no_grad():
        before = model(ids).logits
        with trunk_replaced(model, lambda output, *chunks: output):
            assert torch.equal(model(ids).logits, before)
        with trunk_replaced(model, lambda output, *chunks: output * 0):
            assert not torch.equal(model(ids).logits, before)
        assert torch.equal(model(ids).logits, before)
    with pytest.raises(ValueError, match="Hierarchy"), trunk_replaced(torch.nn.Linear(1, 1), mean_in_class):
        pass


def test_metrics_are_what_a_direct_count_gives_however_windows_are_grouped() -> None:
    model, batch = build(), batch_of(6, 50)
    whole = diagnose(model, [batch])
    assert model.training, "evaluation mode is left again"
    for size in (1, 4):
        pieces = [rows(batch, slice(i, i + size)) for i in range(0, 6, size)]
        assert diagnose(model, pieces) == pytest.approx(whole, rel=1e-5)
    # two ranks, three windows each: their sums are added elementwise
    (names, first), (_, second) = (window_sums(model, rows(batch, slice(rank, 6, 2))) for rank in range(2))
    assert summarise(names, first.sum(0) + second.sum(0)) == pytest.approx(whole, rel=1e-5)

    truth = uncorrupted(batch)
    masked = batch.input_ids == MASK_ID
    assert (batch.input_ids[~masked & (batch.labels == -100)] == truth[~masked & (batch.labels == -100)]).all()
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(model(batch.input_ids).logits[masked], truth[masked])
        plain, shifted = model(truth), model(truth[:, 1:])
    assert whole["masked_loss"] == pytest.approx(losses.item(), rel=1e-5)
    shares = torch.bincount(truth[masked] - FIRST_BASE_ID) / masked.sum()
    assert whole["order0"] == pytest.approx(-(shares * shares.log()).sum().item(), rel=1e-5)
    assert whole["compression_stage0"] == pytest.approx(int(plain.chunk_counts[0].sum()) / 300)
    assert whole["compression_stage1"] == pytest.approx(
        int(plain.chunk_counts[1].sum() / plain.chunk_counts[0].sum() * 1e9) / 1e9
    )
    first, second = plain.boundaries[0][:, 2:], shifted.boundaries[0][:, 1:]
    assert whole["shift_overlap_stage0"] == pytest.approx(int((first & second).sum()) / int((first | second).sum()))
    assert whole["repeat_chunks_stage0"] == pytest.approx(plain.boundaries[0][:, 25:].float().mean().item())
    assert whole["unique_chunks_stage0"] == pytest.approx(plain.boundaries[0][:, :25].float().mean().item())


class Cheat(torch.nn.Module):
    """A masked language model that knows the answers without asking its trunk, or else through it alone."""

    def __init__(self, batch: Batch, *, through_trunk: bool) -> None:
        super().__init__()
        self.network = build()
        self.answers = 4.0 * torch.nn.functional.one_hot(uncorrupted(batch), 16).float()
        self.through_trunk = through_trunk

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> object:
        output = self.network(input_ids, attention_mask=attention_mask)
        whole = input_ids.shape[1] == self.answers.shape[1]
        if whole and (not self.through_trunk or torch.equal(output.logits, self.expected(input_ids, attention_mask))):
            output.logits = self.answers
        return output

    def expected(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hooks = self.network.dnachunker.hierarchy.trunk._forward_hooks
        kept = dict(hooks)
        hooks.clear()
        logits: Tensor = self.network(input_ids, attention_mask=attention_mask).logits
        hooks.update(kept)
        return logits


def test_predictions_that_ignore_the_trunk_are_called_a_leak() -> None:
    batch = batch_of(4, 60)
    leaky = diagnose(Cheat(batch, through_trunk=False), [batch])
    assert leaky["trunk_mean_cost"] == leaky["trunk_shuffle_cost"] == 0
    assert "mask_leakage" in {warning.name for warning in warnings_of(leaky)}
    honest = diagnose(Cheat(batch, through_trunk=True), [batch])
    assert min(honest["trunk_mean_cost"], honest["trunk_shuffle_cost"]) > 1
    assert "mask_leakage" not in {warning.name for warning in warnings_of(honest)}
    untrained = diagnose(build(), [batch])
    assert "mask_leakage" not in {warning.name for warning in warnings_of(untrained)}


@pytest.mark.parametrize(("sign", "name"), [(1, "over_compression"), (-1, "no_compression")])
def test_a_collapsed_router_is_named_with_its_stage(sign: int, name: str) -> None:
    model = build()
    with torch.no_grad():
        router = model.dnachunker.hierarchy.routers[0].probability
        router.query.zero_()
        router.key.zero_()
        # with a constant direction added by the embedding, every cosine is that of two constants
        router.query[0, 0], router.key[0, 0] = 1, sign
        model.dnachunker.embedding.weight[:, 0] = 10
        model.dnachunker.hierarchy.encoders[0].layers[0].out_proj.weight.zero_()
    found = [warning for warning in warnings_of(diagnose(model, [batch_of(2, 200)])) if warning.name == name]
    assert found
    assert "stage 0" in found[0].message


HEALTHY = {
    "order0": 1.36, "masked_loss": 1.25, "trunk_mean_cost": 0.04, "trunk_shuffle_cost": 0.06,
    "repeat_loss": math.nan, "unique_loss": 1.25,
    **{f"compression_stage{s}": 0.33 for s in (0, 1)}, **{f"shift_overlap_stage{s}": 0.95 for s in (0, 1)},
    **{f"repeat_chunks_stage{s}": math.nan for s in (0, 1)}, **{f"unique_chunks_stage{s}": 0.3 for s in (0, 1)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"shift_overlap_stage1": 0.3}, ["cascading_boundaries"]),
        ({"repeat_chunks_stage0": 0.1, "repeat_loss": 1.3}, ["repeats_over_compressed"]),
        ({"repeat_chunks_stage0": 0.1, "repeat_loss": 0.9}, []),
        ({"trunk_mean_cost": 0.001}, ["mask_leakage"]),
        ({"trunk_mean_cost": 0.001, "masked_loss": 1.355}, []),
        ({"compression_stage1": 0.01}, ["over_compression"]),
    ],
)
def test_each_threshold_raises_its_own_warning(changes: dict[str, float], names: list[str]) -> None:
    assert [warning.name for warning in warnings_of({**HEALTHY, **changes})] == names

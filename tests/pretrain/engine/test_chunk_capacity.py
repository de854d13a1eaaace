"""A chunk capacity chosen from recent steps changes no loss, and a batch that does not fit changes no weight."""

import itertools
import math

import pytest
import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.data.masking import Batch, MaskingRates, corrupt
from dnachunker.pretrain.engine.chunk_capacity import ChunkCapacity
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.records.step_metrics import StepSums

SIZES = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 2, "num_heads": 2}
ALONE = Rank(0, 1, 0, torch.device("cpu"))


def micro_batches(step: int, bases: int = 4) -> list[Batch]:
    """Two micro-batches of a step, with windows of unequal length; fewer kinds of bases give fewer chunks."""
    generator = torch.Generator().manual_seed(step)
    codes = torch.randint(0, bases, (4, 96), generator=generator).to(torch.uint8)
    codes[1, 70:] = 5
    return [corrupt(part, torch.arange(2) + 2 * step, MaskingRates(mask=0.8)) for part in codes.split(2)]


class Training:
    def __init__(self, *, foresee: bool) -> None:
        torch.manual_seed(0)
        self.model = DNAChunkerForMaskedLM(DNAChunkerConfig(**SIZES)).train()
        self.capacity = ChunkCapacity(foresee=foresee)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def step(self, batches: list[Batch]) -> tuple[float, bool]:
        """The step's loss, and whether its buffers were full."""
        sums = StepSums()
        for batch in batches:
            output = self.model(
                batch.input_ids, batch.attention_mask, labels=batch.labels, loss_weights=batch.loss_weights,
                loss_normalizer=50.0, sequence_normalizer=4, chunk_capacity=self.capacity.per_base,
            )  # fmt: skip
            output.loss.backward()
            sums.add(batch, output)
        metrics = sums.over_all(ALONE)
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.model.parameters()])
        if norm.isfinite():  # as the engine decides
            self.optimizer.step()
        self.optimizer.zero_grad()
        return metrics.loss, self.capacity.learn(metrics.most_chunks)


def test_losses_are_those_of_counted_chunks() -> None:
    """Within rounding: filler rows change the blocks in which products are computed, and the order of sums."""
    counted, foreseen = Training(foresee=False), Training(foresee=True)
    used: list[bool] = []
    for step in range(11):
        used.append(foreseen.capacity.per_base is not None)
        (ours, full), (theirs, _) = (training.step(micro_batches(step)) for training in (foreseen, counted))
        assert not full
        assert abs(ours - theirs) <= (1e-6 if used[-1] else 0)
    assert used == 8 * [False] + 3 * [True]


def test_a_batch_that_does_not_fit_is_lost_and_the_next_is_counted() -> None:
    training = Training(foresee=True)
    for step in range(9):
        assert not training.step(micro_batches(step, bases=1))[1]
    narrow = training.capacity.per_base
    before = [parameter.clone() for parameter in training.model.parameters()]
    loss, full = training.step(micro_batches(3))
    assert full
    assert loss != loss  # NaN, so no rank applies the step
    assert all(torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True))
    assert training.capacity.per_base is None
    for step in range(9):
        loss, full = training.step(micro_batches(step))
        assert loss == loss
        assert not full
    wide = training.capacity.per_base
    assert narrow is not None
    assert wide is not None
    assert all(a < b for a, b in zip(narrow, wide, strict=True))


def test_a_resumed_run_foresees_the_same() -> None:
    needs = [(0.5 + i % 7 / 100, 0.3 - i % 5 / 100) for i in range(80)]
    whole = ChunkCapacity(foresee=True)
    resumed = ChunkCapacity(foresee=True)
    for step, needed in enumerate(needs):
        assert whole.per_base == resumed.per_base
        assert not whole.learn(needed)
        assert not resumed.learn(needed)
        if step in (0, 40):
            resumed = ChunkCapacity(foresee=True, shares=resumed.state())
    assert whole.per_base is not None
    assert [capacity * 64 % 1 for capacity in whole.per_base] == [0, 0]
    assert whole.per_base == [math.ceil(64 * (1.05 * most + rise)) / 64 for most, rise in ((0.56, 0.01), (0.3, 0.04))]


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_fullest_micro_batch_of_all_ranks_counts(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**SIZES)).eval()
    rows = []
    batches = list(itertools.chain(*(micro_batches(step) for step in range(2))))[:ranks]
    monkeypatch.setattr(Rank, "sum_tensor", lambda self, values: rows.append(values.clone()) or values)
    shares = []
    for rank, batch in enumerate(batches):
        sums = StepSums()
        with torch.no_grad():
            output = model(batch.input_ids, batch.attention_mask, labels=batch.labels)
        sums.add(batch, output)
        sums.over_all(Rank(rank, ranks, rank, torch.device("cpu")))
        shares.append([float(stage.sum()) / batch.input_ids.numel() for stage in output.chunk_counts])
    together = torch.stack(rows).sum(0)
    monkeypatch.setattr(Rank, "sum_tensor", lambda self, values: together)
    found = sums.over_all(Rank(0, ranks, 0, torch.device("cpu"))).most_chunks
    assert list(found) == pytest.approx([max(stage) for stage in zip(*shares, strict=True)])

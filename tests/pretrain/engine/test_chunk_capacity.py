"""Places for chunks taken from history change no loss, and what does not fit is not learned."""

import itertools
import math

import pytest
import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.data.masking import Batch, MaskingRates, corrupt
from dnachunker.pretrain.engine.chunk_capacity import ChunkPlaces
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.records.step_metrics import StepTally

SIZES = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 2, "num_heads": 2}
ALONE = Rank(0, 1, 0, torch.device("cpu"))


def micro_batches(step: int, bases: int = 4) -> list[Batch]:
    """Two of a step, the windows of unequal length; of few kinds of bases there are few chunks."""
    generator = torch.Generator().manual_seed(step)
    codes = torch.randint(0, bases, (4, 96), generator=generator).to(torch.uint8)
    codes[1, 70:] = 5
    return [corrupt(part, torch.arange(2) + 2 * step, MaskingRates(mask=0.8)) for part in codes.split(2)]


class Training:
    def __init__(self, *, foresee: bool) -> None:
        torch.manual_seed(0)
        self.model = DNAChunkerForMaskedLM(DNAChunkerConfig(**SIZES)).train()
        self.places = ChunkPlaces(self.model.config, foresee=foresee)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def step(self, batches: list[Batch]) -> tuple[float, bool]:
        """The step's loss, and whether its places were full."""
        tally = StepTally()
        for batch in batches:
            with self.places.applied():
                output = self.model(
                    batch.input_ids, batch.attention_mask, labels=batch.labels, loss_weights=batch.loss_weights,
                    loss_normalizer=50.0, sequence_normalizer=4,
                )  # fmt: skip
            output.loss.backward()
            tally.add(batch, output)
        metrics = tally.over_all(ALONE)
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.model.parameters()])
        if norm.isfinite():  # as the engine decides
            self.optimizer.step()
        self.optimizer.zero_grad()
        return metrics["loss"], self.places.learn(list(metrics["most_chunks"].values()))


def test_losses_are_those_of_counted_chunks() -> None:
    """To the bit, until gradients that were added up over more rows, filler among them, have been rounded elsewhere."""
    counted, foreseen = Training(foresee=False), Training(foresee=True)
    used: list[bool] = []
    for step in range(11):
        used.append(foreseen.places.places is not None)
        (ours, full), (theirs, _) = (training.step(micro_batches(step)) for training in (foreseen, counted))
        assert not full
        assert ours == theirs if used.count(True) < 2 else abs(ours - theirs) <= 1e-6
    assert used == 8 * [False] + 3 * [True]
    assert foreseen.model.config.chunk_capacity is None, "passes outside of training count"


def test_a_batch_that_does_not_fit_is_lost_and_the_next_is_counted() -> None:
    training = Training(foresee=True)
    for step in range(9):
        assert not training.step(micro_batches(step, bases=1))[1]
    narrow = training.places.places
    before = [parameter.clone() for parameter in training.model.parameters()]
    loss, full = training.step(micro_batches(3))
    assert full
    assert loss != loss  # NaN: no guard lets it be learned
    assert all(torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True))
    assert training.places.places is None
    for step in range(9):
        loss, full = training.step(micro_batches(step))
        assert loss == loss
        assert not full
    wide = training.places.places
    assert narrow is not None
    assert wide is not None
    assert all(a < b for a, b in zip(narrow, wide, strict=True))


def test_a_resumed_run_makes_the_same_places() -> None:
    network, needs = DNAChunkerConfig(**SIZES), [(0.5 + i % 7 / 100, 0.3 - i % 5 / 100) for i in range(80)]
    whole = ChunkPlaces(network, foresee=True)
    resumed = ChunkPlaces(network, foresee=True)
    for step, needed in enumerate(needs):
        assert whole.places == resumed.places
        assert not whole.learn(needed)
        assert not resumed.learn(needed)
        if step in (0, 40):
            resumed = ChunkPlaces(network, foresee=True, shares=resumed.state())
    assert whole.places is not None
    assert [place * 64 % 1 for place in whole.places] == [0, 0]
    assert whole.places == [math.ceil(64 * (1.05 * most + rise)) / 64 for most, rise in ((0.56, 0.01), (0.3, 0.04))]


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_fullest_micro_batch_of_all_ranks_counts(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**SIZES)).eval()
    rows = []
    batches = list(itertools.chain(*(micro_batches(step) for step in range(2))))[:ranks]
    monkeypatch.setattr(Rank, "sum_tensor", lambda self, values: rows.append(values.clone()) or values)
    shares = []
    for rank, batch in enumerate(batches):
        tally = StepTally()
        with torch.no_grad():
            output = model(batch.input_ids, batch.attention_mask, labels=batch.labels)
        tally.add(batch, output)
        tally.over_all(Rank(rank, ranks, rank, torch.device("cpu")))
        shares.append([float(stage.sum()) / batch.input_ids.numel() for stage in output.chunk_counts])
    together = torch.stack(rows).sum(0)
    monkeypatch.setattr(Rank, "sum_tensor", lambda self, values: together)
    found = tally.over_all(Rank(0, ranks, 0, torch.device("cpu")))["most_chunks"]
    assert list(found.values()) == pytest.approx([max(stage) for stage in zip(*shares, strict=True)])

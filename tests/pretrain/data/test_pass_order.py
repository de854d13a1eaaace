"""If ranks wait for each other after every pass, windows of similar work share a pass, and nothing else changes."""

from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from loader_ledger import curriculum, loader

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.typed_config import load_config
from dnachunker.model.alphabet import MASK_ID
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.data.masking import IGNORED_LABEL, Batch, MaskingRates, corrupt
from dnachunker.pretrain.data.pass_order import bases_of_chance, by_expected_chunks, pass_order
from dnachunker.pretrain.data.training_data import StepData

PASSES = 4


def chunks(batch: Batch, protected: bool) -> list[float]:
    """Expected chunks of each window, counted base by base."""
    found = []
    for ids, present in zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True):
        held = [i for i, there in enumerate(present) if there]
        forced = [i for i in held if MASK_ID in ids[max(i - 1, 0) : i + 1]] if protected else []
        found.append(len(forced) + 0.25 * (len(held) - len(forced)))
    return found


def rows(step: StepData) -> list[list[list[float]]]:
    """All values of each window, sorted, so that two orders can be compared."""
    parts = [[getattr(part, field.name).tolist() for field in fields(Batch)] for part in step.micro_batches]
    return sorted(list(row) for part in parts for row in zip(*part, strict=True))


@pytest.mark.parametrize("protected", [False, True], ids=["unprotected", "protected"])
def test_a_rank_begins_with_the_windows_of_most_chunks(toy_corpus: Corpus, protected: bool) -> None:
    order = partial(by_expected_chunks, target_ratio=0.25, mask_protection=protected)
    run = curriculum(toy_corpus, global_batch=24)
    shared = {"end_step": 3, "rank": 1, "world_size": 2, "accumulation": PASSES}
    plain, ordered = loader(toy_corpus, run, **shared), loader(toy_corpus, run, pass_order=order, **shared)
    for _ in range(3):
        came, sorted_ = plain.draw(), ordered.draw()
        assert came.windows.key.tolist() == sorted_.windows.key.tolist()
        assert [len(part.input_ids) for part in sorted_.micro_batches] == [3] * PASSES
        expected = [value for part in sorted_.micro_batches for value in chunks(part, protected)]
        assert expected == sorted(expected, reverse=True)
        assert len(set(expected)) > 1, "there was nothing to order"
        assert rows(came) == rows(sorted_), "the same windows, hidden in the same places"


def settings(**changes: object) -> PretrainConfig:
    values = {"run": "", "data.corpus": "", "data.global_batch": 8, "engine.micro_batch": 1}
    values |= {f"engine.{name}": value for name, value in changes.items()}
    return load_config(PretrainConfig, "tiny", kind="pretrain", settings=values)


@pytest.mark.parametrize(
    ("changes", "ranks", "ordered"),
    [
        ({"zero_stage": 3}, 2, True),
        ({"zero_stage": 2}, 2, True),
        ({"zero_stage": 1}, 2, False),
        ({"zero_stage": 3}, 1, False),
        ({"zero_stage": 3}, 8, False),
        ({"zero_stage": 3, "foresee_chunks": True}, 2, False),
    ],
)
def test_windows_are_ordered_only_if_ranks_wait_after_each_of_several_passes(
    changes: dict[str, object], ranks: int, ordered: bool
) -> None:
    for micro_batch in (1, 2) if ranks < 8 else (1,):
        config = settings(**changes, micro_batch=micro_batch)
        passes = config.accumulation(ranks)
        order = pass_order(config.engine, config.model, world_size=ranks, accumulation=passes)
        assert (order is not None) == ordered
        bases = bases_of_chance(config.data, passes=ranks * passes, ordered=ordered)
        assert bases == 1024 * (1 if ordered else micro_batch)


def test_a_pass_in_order_has_no_more_labels_than_were_allowed_for() -> None:
    random, rates = np.random.default_rng(0), MaskingRates()
    packed, keys = (torch.from_numpy(values) for values in (
        random.integers(0, 4, (512, 1024), np.uint8), random.integers(0, 2**62, 512)
    ))  # fmt: skip
    batch = corrupt(packed, keys, rates)
    order = by_expected_chunks(batch, 0.33, mask_protection=True)
    fullest = int((batch.take(order[:64]).labels != IGNORED_LABEL).sum())
    assert fullest <= rates.most_selected(1024) * 64 * 1024
    assert fullest > rates.most_selected(64 * 1024) * 64 * 1024, "a bound for windows drawn at random would not do"


def test_windows_of_equal_work_keep_their_order() -> None:
    ids = torch.full((5, 4), 8)
    batch = Batch(ids, ids > 0, ids, ids.float(), ids > 9)
    assert by_expected_chunks(batch, 0.3, mask_protection=True).tolist() == [0, 1, 2, 3, 4]

"""Where ranks wait for each other after every pass, windows of like work meet, and nothing else changes."""

from dataclasses import fields
from functools import partial

import pytest
import torch
from loader_ledger import curriculum, loader

from dataprep.corpus_index import Corpus
from model.alphabet import MASK_ID
from pretrain.config import PretrainConfig
from pretrain.masking import Batch
from pretrain.pass_order import by_expected_chunks, pass_order
from typed_config import load_config

PASSES = 4


def chunks(batch: Batch, protected: bool) -> list[float]:
    """Chunks to expect of each window, counted base by base."""
    found = []
    for ids, present in zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True):
        held = [i for i, there in enumerate(present) if there]
        forced = [i for i in held if MASK_ID in ids[max(i - 1, 0) : i + 1]] if protected else []
        found.append(len(forced) + 0.25 * (len(held) - len(forced)))
    return found


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
        assert len(set(expected)) > 1, "there was something to order"
        for field in fields(Batch):
            before, after = (
                sorted(row for part in step.micro_batches for row in getattr(part, field.name).tolist())
                for step in (came, sorted_)
            )
            assert before == after, "the same windows, hidden in the same places"


@pytest.mark.parametrize(("stage", "ranks", "ordered"), [(3, 2, True), (2, 2, False), (3, 1, False), (3, 8, False)])
def test_only_where_ranks_meet_after_every_one_of_several_passes(stage: int, ranks: int, ordered: bool) -> None:
    settings = {
        "run": "",
        "data.corpus": "",
        "engine.zero_stage": stage,
        "data.global_batch": 8,
        "engine.micro_batch": 1,
    }
    config = load_config(PretrainConfig, "tiny", kind="pretrain", settings=settings)
    assert (pass_order(config, ranks) is not None) == ordered


def test_windows_alike_stay_as_they_came() -> None:
    ids = torch.full((5, 4), 8)
    batch = Batch(ids, ids > 0, ids, ids.float(), ids > 9)
    assert by_expected_chunks(batch, 0.3, mask_protection=True).tolist() == [0, 1, 2, 3, 4]

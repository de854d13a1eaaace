"""Byte pairs of a run: learned from the training split alone, always the same, and independent of masked bases."""

import numpy as np
import torch

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.model.alphabet import MASK_ID
from dnachunker.model.fixed_segmentation import BytePairs
from dnachunker.pretrain.data.byte_pairs import learn_merges
from dnachunker.pretrain.data.masking import MaskingRates, corrupt, uncorrupted_ids
from dnachunker.pretrain.data.window_reader import WindowReader


def learned(corpus: Corpus, **changes) -> str:
    settings = {"vocabulary": 60, "sample_bases": 50_000, "both_strands": True}
    return learn_merges(WindowReader(corpus, "train"), **{**settings, **changes})


def starts(merges: str, ids: torch.Tensor) -> np.ndarray:
    first = np.zeros(ids.shape, np.bool_)
    first[:, 0] = True
    return BytePairs(merges).starts(ids.numpy().ravel(), first.ravel())


def test_the_same_split_gives_the_same_merges_and_as_many_as_asked_for(toy_corpus: Corpus) -> None:
    merges = learned(toy_corpus)
    assert merges == learned(toy_corpus)
    tokens = {line.replace(" ", "") for line in merges.splitlines()}
    assert len(tokens) == 60 - 4
    assert merges != learned(toy_corpus, sample_bases=5_000)
    assert merges != learned(toy_corpus, both_strands=False)


def test_bases_under_masks_move_no_boundary(toy_corpus: Corpus) -> None:
    merges = learned(toy_corpus)
    reader = WindowReader(toy_corpus, "train")
    packed = torch.from_numpy(np.stack([reader.block(index)[:1000] for index in range(4)]))
    keys, rates = torch.arange(4), MaskingRates()
    batch = corrupt(packed, keys, rates)
    hidden = batch.input_ids == MASK_ID
    other = torch.where(hidden, packed ^ 1, packed)  # A for C and G for T, under the masks only
    again = corrupt(other, keys, rates)
    assert (starts(merges, batch.input_ids) == starts(merges, again.input_ids)).all()
    # byte pairs of the uncorrupted sequence would show the difference
    assert (starts(merges, uncorrupted_ids(packed)) != starts(merges, uncorrupted_ids(other))).any()

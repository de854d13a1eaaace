"""Corruption: the stated rates, only on bases, and a pure function of the window's key."""

import hashlib
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dnachunker.model.alphabet import A_ID, CODE_N, CODE_PAD, MASK_ID, N_ID, PAD_ID, T_ID
from dnachunker.pretrain.data.masking import (
    IGNORED_LABEL,
    Batch,
    MaskingRates,
    corrupt,
    corrupt_tensors,
    span_offset,
    uncorrupted_ids,
)
from dnachunker.pretrain.order.counter_random import hash_counters, hash_positions

packed_windows = arrays(np.uint8, (3, 200), elements=st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12]))


@settings(max_examples=50, deadline=None)
@given(packed=packed_windows, seed=st.integers(-(2**63), 2**63 - 1))
def test_only_bases_are_touched_and_labels_restore_them(packed: np.ndarray, seed: int) -> None:
    keys = torch.tensor([seed, seed ^ 1, seed ^ 2])
    batch = corrupt(torch.from_numpy(packed), keys, MaskingRates())
    clean = uncorrupted_ids(torch.from_numpy(packed))
    selected = batch.labels != IGNORED_LABEL
    assert torch.equal(torch.where(selected, batch.labels, batch.input_ids), clean)
    assert ((clean[selected] >= A_ID) & (clean[selected] <= T_ID)).all()
    assert torch.equal(batch.attention_mask, clean != PAD_ID)
    repeat = torch.from_numpy((packed & 8) != 0)
    expected = torch.where(repeat, 0.1, 1.0) * selected
    torch.testing.assert_close(batch.loss_weights, expected.float())


def test_rates_are_fifteen_eighty_ten_ten() -> None:
    packed = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (64, 4096), np.uint8))
    batch = corrupt(packed, torch.arange(64), MaskingRates())
    clean = uncorrupted_ids(packed)
    selected = batch.labels != IGNORED_LABEL
    masked = batch.input_ids == MASK_ID
    changed = selected & ~masked & (batch.input_ids != clean)
    assert abs(selected.float().mean() - 0.15) < 0.003
    assert abs(masked.sum() / selected.sum() - 0.8) < 0.01
    # a random base equals the original one time in four
    assert abs(changed.sum() / selected.sum() - 0.075) < 0.006
    replaced = batch.input_ids[changed]
    assert torch.bincount(replaced - A_ID, minlength=4).float().std() < 0.1 * len(replaced) / 4


def test_a_window_is_corrupted_alike_in_any_batch_and_differently_with_another_key() -> None:
    packed = torch.from_numpy(np.random.default_rng(1).integers(0, 4, (4, 512), np.uint8))
    keys = torch.tensor([5, 6, 7, 8])
    together = corrupt(packed, keys, MaskingRates())
    alone = corrupt(packed[2:3], keys[2:3], MaskingRates())
    assert torch.equal(together.input_ids[2:3], alone.input_ids)
    other = corrupt(packed[2:3], torch.tensor([70]), MaskingRates())
    assert not torch.equal(alone.input_ids, other.input_ids)


@pytest.mark.parametrize("span", [1, 6])
def test_n_and_pads_keep_their_ids(span: int) -> None:
    packed = torch.tensor([[CODE_N, CODE_N | 8, CODE_PAD]], dtype=torch.uint8)
    batch = corrupt(packed, torch.tensor([1]), MaskingRates(select=1.0, span=span))
    assert batch.input_ids.tolist() == [[N_ID, N_ID, PAD_ID]]
    assert batch.weight_sum == 0


@settings(max_examples=50, deadline=None)
@given(
    packed=packed_windows,
    seed=st.integers(-(2**63), 2**63 - 1),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    span=st.sampled_from([1, 2, 3, 6, 256]),
)
def test_the_compiled_loop_and_the_tensor_operations_agree_to_the_bit(
    packed: np.ndarray, seed: int, shares: tuple[float, float, float], span: int
) -> None:
    rates = MaskingRates(shares[0], shares[1], shares[2] * (1 - shares[1]), repeat_weight=0.25, span=span)
    keys = torch.tensor([seed, seed ^ 1, seed ^ 2])
    compiled = corrupt(torch.from_numpy(packed), keys, rates)
    plain = corrupt_tensors(torch.from_numpy(packed), keys, rates)
    for field in fields(Batch):
        first, second = getattr(compiled, field.name), getattr(plain, field.name)
        assert first.dtype == second.dtype
        assert torch.equal(first, second), field.name


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_of_none_and_all_are_exact(share: float) -> None:
    packed = torch.zeros((4, 4096), dtype=torch.uint8)
    batch = corrupt(packed, torch.arange(4), MaskingRates(select=share, mask=1.0, random=0.0))
    assert (batch.input_ids == MASK_ID).all() == (share == 1.0)
    assert (batch.labels != IGNORED_LABEL).all() == (share == 1.0)
    assert (batch.labels != IGNORED_LABEL).any() == (share == 1.0)


def test_single_positions_are_chosen_as_they_always_were() -> None:
    # a run must be continued by a later version with the masks it began with
    letters = np.array([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 0, 1], np.uint8)
    order = (np.arange(4 * 3000) * 2654435761 % 2**32 >> 13).astype(np.uint8).reshape(4, 3000) % 13
    batch = corrupt(torch.from_numpy(letters[order]), torch.tensor([0, 1, -5, 2**62]), MaskingRates())
    content = batch.input_ids.numpy().astype(np.uint8).tobytes() + batch.labels.numpy().astype(np.int8).tobytes()
    assert hashlib.sha256(content).hexdigest() == "c690d78d2ee75f9a0e0a6b8090ebc866294de63052bf0179ec08acccccbb2c5d"


@pytest.mark.parametrize("span", [2, 3, 6, 17])
def test_spans_keep_the_share_of_every_position_and_each_is_treated_as_one(span: int) -> None:
    windows, length = 20_000, 61
    keys = torch.from_numpy(hash_counters(3, np.arange(windows)).view(np.int64))
    packed = torch.full((windows, length), 2, dtype=torch.uint8)
    batch = corrupt(packed, keys, MaskingRates(random=0.2, span=span))
    selected = batch.labels != IGNORED_LABEL
    # four standard errors at each place of a window, its ends included
    for chosen, share in [(selected, 0.15), (batch.input_ids == MASK_ID, 0.12)]:
        error = 4 * (share * (1 - share) / windows) ** 0.5
        assert (chosen.double().mean(0) - share).abs().max() < error
    # the bases of a span are selected together and masked together
    tile = (torch.arange(length) + span_offset(keys, span)) // span
    assert len(span_offset(keys, span).unique()) == span
    same = tile[:, 1:] == tile[:, :-1]
    for chosen in (selected, batch.input_ids == MASK_ID):
        assert not ((chosen[:, 1:] != chosen[:, :-1]) & same).any()
    # spans of random bases hold any bases
    replaced = batch.input_ids[selected & (batch.input_ids != MASK_ID)]
    assert torch.bincount(replaced - A_ID, minlength=4).float().std() < 0.02 * len(replaced)


def test_spans_next_to_each_other_are_selected_independently() -> None:
    keys = torch.from_numpy(hash_counters(8, np.arange(4096)).view(np.int64))
    packed = torch.zeros((4096, 96), dtype=torch.uint8)
    chosen = (corrupt(packed, keys, MaskingRates(span=3)).labels != IGNORED_LABEL).double() - 0.15
    spread = chosen.var()
    for shift in (3, 6, 9):  # of whole spans: 4,096 windows x about 31 pairs
        pairs = (chosen[:, :-shift] * chosen[:, shift:])[:, ::3]
        assert abs(pairs.mean() / spread) < 4 / pairs.numel() ** 0.5


@pytest.mark.parametrize(("share", "span"), [(0.0, 1), (0.15, 1), (0.15, 6), (0.6, 1), (1.0, 1)])
def test_the_bound_on_selected_positions_holds_and_is_tight(share: float, span: int) -> None:
    rates = MaskingRates(select=share, span=span)
    for positions in (16, 1024):
        labels = corrupt(torch.zeros((2048, positions), dtype=torch.uint8), torch.arange(2048), rates).labels
        assert ((labels != IGNORED_LABEL).float().mean(1) <= rates.most_selected(positions)).all()
    assert share <= rates.most_selected(8192) <= share + 0.05 * span**0.5
    assert 0 < rates.most_selected(1) <= 1


def test_hashes_are_the_published_functions() -> None:
    def splitmix(value: int) -> int:
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    def lowbias32(value: int) -> int:
        value = (value ^ (value >> 16)) * 0x7FEB352D % 2**32
        value = (value ^ (value >> 15)) * 0x846CA68B % 2**32
        return value ^ (value >> 16)

    keys = hash_counters(11, np.arange(5))
    for counter, key in enumerate(keys.tolist()):
        state = splitmix(12 * 0x9E3779B97F4A7C15 % 2**64)
        assert key == splitmix((state + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64)
    bits = hash_positions(torch.from_numpy(keys.view(np.int64)), 7).tolist()
    for row, key in zip(bits, keys.tolist(), strict=True):
        low, high = key % 2**32, key >> 32
        assert row == [lowbias32((low + position * 0x9E3779B9) % 2**32 ^ high) for position in range(1, 8)]


def test_neighbours_and_windows_are_corrupted_independently() -> None:
    keys = torch.from_numpy(hash_counters(7, np.arange(256)).view(np.int64))
    chosen = (hash_positions(keys, 4096).double() / 2**32 < 0.15).double() - 0.15
    spread = chosen.var()
    for shift in (1, 2, 3, 7, 64):
        for axis in (0, 1):
            pairs = chosen * chosen.roll(shift, axis)
            assert abs(pairs.mean() / spread) < 4 / 1024  # four standard errors of 2^20 pairs

"""Corruption: the stated rates, only on bases, and a pure function of the window's key."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.alphabet import A_ID, CODE_N, CODE_PAD, MASK_ID, N_ID, PAD_ID, T_ID
from pretrain.counter_random import hash_counters, hash_positions
from pretrain.masking import IGNORED_LABEL, Batch, MaskingRates, corrupt, corrupt_tensors, uncorrupted_ids

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


def test_n_and_pads_keep_their_ids() -> None:
    packed = torch.tensor([[CODE_N, CODE_N | 8, CODE_PAD]], dtype=torch.uint8)
    batch = corrupt(packed, torch.tensor([1]), MaskingRates(select=1.0))
    assert batch.input_ids.tolist() == [[N_ID, N_ID, PAD_ID]]
    assert batch.weight_sum == 0


@settings(max_examples=50, deadline=None)
@given(
    packed=packed_windows,
    seed=st.integers(-(2**63), 2**63 - 1),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_the_compiled_loop_and_the_tensor_operations_agree_to_the_bit(
    packed: np.ndarray, seed: int, shares: tuple[float, float, float]
) -> None:
    rates = MaskingRates(shares[0], shares[1], shares[2] * (1 - shares[1]), repeat_weight=0.25)
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


@pytest.mark.parametrize("share", [0.0, 0.15, 0.6, 1.0])
def test_room_for_the_selected_is_enough_and_not_much_more(share: float) -> None:
    rates = MaskingRates(select=share)
    for positions in (16, 1024):
        labels = corrupt(torch.zeros((2048, positions), dtype=torch.uint8), torch.arange(2048), rates).labels
        assert ((labels != IGNORED_LABEL).float().mean(1) <= rates.most_selected(positions)).all()
    assert share <= rates.most_selected(8192) <= share + 0.05
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

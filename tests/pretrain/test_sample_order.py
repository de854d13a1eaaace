"""The order is a permutation of every base, the same on any machine, and independent of how it is asked for."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.sample_order import SampleOrder, Window, held_out_windows

corpora = st.lists(st.integers(1, 3000), min_size=1, max_size=12)
orders = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63 - 1),
        "seq_len": st.integers(1, 700),
        "streams": st.sampled_from([1, 2, 4, 6, 64]),
        "shuffle_blocks": st.integers(1, 4),
    }
)


def epoch(order: SampleOrder, number: int) -> list[Window]:
    first = sum(order.epoch_windows(e) for e in range(number))
    return order.windows(range(first, first + order.epoch_windows(number)))


@settings(max_examples=60, deadline=None)
@given(bases=corpora, spec=orders, number=st.integers(0, 2))
def test_every_base_is_seen_exactly_once_an_epoch(bases: list[int], spec: dict[str, int], number: int) -> None:
    seen = [np.zeros(n, int) for n in bases]
    windows = epoch(SampleOrder(np.array(bases), **spec), number)
    for window in windows:
        assert 0 < window.end - window.start <= spec["seq_len"]
        assert window.epoch == number
        seen[window.block][window.start : window.end] += 1
    assert all((count == 1).all() for count in seen)
    assert len({window.key for window in windows}) == len(windows)


@settings(max_examples=40, deadline=None)
@given(bases=corpora, spec=orders, first=st.integers(0, 400), world=st.sampled_from([1, 2, 3, 4]), data=st.data())
def test_a_sample_does_not_depend_on_history_or_world_size(
    bases: list[int], spec: dict[str, int], first: int, world: int, data: st.DataObject
) -> None:
    straight = SampleOrder(np.array(bases), **spec).windows(range(first + 60))[first:]
    ranks = [SampleOrder(np.array(bases), **spec) for _ in range(world)]
    resumed: dict[int, Window] = {}
    for sample in data.draw(st.permutations(range(first, first + 60))):
        resumed[sample] = ranks[sample % world].windows([sample])[0]
    assert [resumed[sample] for sample in range(first, first + 60)] == straight


def test_epochs_and_seeds_differ_and_window_borders_move() -> None:
    bases = np.full(20, 5000)

    def spans(seed: int, number: int) -> list[tuple[int, int, int]]:
        order = SampleOrder(bases, seed=seed, seq_len=512, streams=8, shuffle_blocks=2)
        return [(w.block, w.start, w.end) for w in epoch(order, number)]

    first, second, other_seed = spans(1, 0), spans(1, 1), spans(2, 0)
    assert first != second
    assert first != other_seed
    assert len(set(first) & set(second)) < 0.2 * len(first), "window borders stay where they were"
    assert sorted(first) != first, "nothing was shuffled"


def test_weights_repeat_blocks_whole_and_in_part() -> None:
    bases = np.full(400, 100)
    weights = np.repeat([2.5, 0.25], 200)
    order = SampleOrder(bases, seed=3, seq_len=100, streams=4, shuffle_blocks=2, weights=weights)
    totals = [Counter[bool]() for _ in range(20)]
    for number, total in enumerate(totals):
        for window in epoch(order, number):
            total[window.block < 200] += window.end - window.start
    heavy = sum(total[True] for total in totals) / (20 * 200 * 100)
    light = sum(total[False] for total in totals) / (20 * 200 * 100)
    assert abs(heavy - 2.5) < 0.03
    assert abs(light - 0.25) < 0.03


def test_half_of_the_windows_come_from_the_other_strand() -> None:
    order = SampleOrder(np.full(50, 4096), seed=5, seq_len=64, streams=8, shuffle_blocks=4)
    reverse = [window.reverse for window in epoch(order, 0)]
    assert abs(np.mean(reverse) - 0.5) < 0.03
    forward_only = SampleOrder(
        np.full(50, 4096), seed=5, seq_len=64, streams=8, shuffle_blocks=4, reverse_complement=False
    )
    assert not any(window.reverse for window in epoch(forward_only, 0))


def test_held_out_windows_are_whole_spread_and_fixed() -> None:
    bases = np.array([10_000, 300, 50_000])
    windows = held_out_windows(bases, seq_len=1000, count=16)
    assert windows == held_out_windows(bases, seq_len=1000, count=16)
    assert {window.block for window in windows} == {0, 2} or {window.block for window in windows} == {0, 1, 2}
    assert all(w.end - w.start == min(1000, bases[w.block]) for w in windows)
    assert len(held_out_windows(bases, seq_len=1000, count=10**6)) == 10 + 1 + 50

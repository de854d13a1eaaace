"""The order is a permutation of all bases, the same on any machine and for any sequence of requests."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnachunker.pretrain.order.counter_random import permute
from dnachunker.pretrain.order.mixing import Mixture
from dnachunker.pretrain.order.sample_order import SampleOrder, Windows, held_out_windows

corpora = st.lists(st.integers(1, 3000), min_size=1, max_size=12)
orders = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63 - 1),
        "seq_len": st.integers(1, 700),
        "streams": st.sampled_from([1, 2, 4, 6, 64]),
        "shuffle_blocks": st.integers(1, 4),
    }
)


def epoch(order: SampleOrder, number: int) -> Windows:
    first = sum(order.epoch_windows(e) for e in range(number))
    return order.windows(range(first, first + order.epoch_windows(number)))


def rows(windows: Windows) -> list[tuple[int, ...]]:
    columns = (windows.epoch, windows.block, windows.start, windows.end, windows.key, windows.reverse)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@settings(max_examples=60, deadline=None)
@given(bases=corpora, spec=orders, number=st.integers(0, 2))
def test_every_base_is_seen_exactly_once_an_epoch(bases: list[int], spec: dict[str, int], number: int) -> None:
    seen = [np.zeros(n, int) for n in bases]
    windows = epoch(SampleOrder(np.array(bases), **spec), number)
    assert (windows.epoch == number).all()
    assert ((windows.end > windows.start) & (windows.end - windows.start <= spec["seq_len"])).all()
    for block, start, end in zip(windows.block, windows.start, windows.end, strict=True):
        seen[block][start:end] += 1
    assert all((count == 1).all() for count in seen)
    assert len(set(windows.key.tolist())) == len(windows)


@settings(max_examples=40, deadline=None)
@given(bases=corpora, spec=orders, first=st.integers(0, 400), world=st.sampled_from([1, 2, 3, 4]), data=st.data())
def test_a_sample_does_not_depend_on_history_or_world_size(
    bases: list[int], spec: dict[str, int], first: int, world: int, data: st.DataObject
) -> None:
    straight = rows(SampleOrder(np.array(bases), **spec).windows(range(first + 60)))[first:]
    ranks = [SampleOrder(np.array(bases), **spec) for _ in range(world)]
    resumed: dict[int, tuple[int, ...]] = {}
    for sample in data.draw(st.permutations(range(first, first + 60))):
        resumed[sample] = rows(ranks[sample % world].windows(np.array([sample])))[0]
    assert [resumed[sample] for sample in range(first, first + 60)] == straight


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 600), key=st.integers(0, 2**64 - 1))
def test_a_keyed_permutation_is_a_permutation(size: int, key: int) -> None:
    keys, sizes = np.full(size, key, np.uint64), np.full(size, size)
    assert sorted(permute(np.arange(size), sizes, keys).tolist()) == list(range(size))


def test_keyed_permutations_spread_and_differ() -> None:
    size = 512
    places = np.stack(
        [permute(np.arange(size), np.full(size, size), np.full(size, key, np.uint64)) for key in range(400)]
    )
    # over many keys each index lands everywhere alike, and neighbours do not stay neighbours
    assert abs(places[:, 7].mean() - size / 2) < 4 * size / np.sqrt(12 * 400)
    steps = (places[:, 1:] - places[:, :-1]) % size
    assert (steps == 1).mean() < 0.01
    assert len({tuple(row) for row in places.tolist()}) == 400


def test_epochs_and_seeds_differ_and_window_borders_move() -> None:
    bases = np.full(20, 5000)

    def spans(seed: int, number: int) -> list[tuple[int, ...]]:
        order = SampleOrder(bases, seed=seed, seq_len=512, streams=8, shuffle_blocks=2)
        return [row[1:4] for row in rows(epoch(order, number))]

    first, second, other_seed = spans(1, 0), spans(1, 1), spans(2, 0)
    assert first != second
    assert first != other_seed
    assert len(set(first) & set(second)) < 0.2 * len(first), "window borders stay where they were"
    assert sorted(first) != first, "nothing was shuffled"


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=300),
    repeats=st.lists(st.floats(0, 3), min_size=3, max_size=3).filter(lambda r: r[0] > 0),
    number=st.integers(0, 3),
)
def test_an_epoch_meets_the_weights_to_within_a_block(lengths: list[int], repeats: list[float], number: int) -> None:
    bases = np.array(lengths)
    mixture = Mixture(np.arange(len(bases)) % 3, np.array(repeats))
    order = SampleOrder(bases, seed=3, seq_len=500, streams=4, shuffle_blocks=2, mixture=mixture)
    windows = epoch(order, number)
    seen = np.bincount(mixture.group[windows.block], weights=windows.end - windows.start, minlength=3)
    for group in range(3):
        own = bases[mixture.group == group]
        assert abs(seen[group] - repeats[group] * own.sum()) <= max(own, default=0)
    assert len(set(windows.key.tolist())) == len(windows)  # a block seen twice is corrupted in two ways


def test_a_fraction_is_made_of_other_blocks_each_epoch() -> None:
    mixture = Mixture(np.zeros(64, np.int64), np.array([0.25]))
    order = SampleOrder(np.full(64, 100), seed=3, seq_len=100, streams=4, shuffle_blocks=2, mixture=mixture)
    chosen = [set(epoch(order, number).block.tolist()) for number in range(8)]
    assert len(set().union(*chosen)) > 48


def test_threads_that_share_an_order_draw_what_one_thread_draws() -> None:
    spec = {"seed": 5, "seq_len": 64, "streams": 4, "shuffle_blocks": 2}
    straight = rows(SampleOrder(np.full(30, 500), **spec).windows(range(3000)))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            order = SampleOrder(np.full(30, 500), **spec)
            with ThreadPoolExecutor(4) as pool:
                parts = pool.map(lambda n, order=order: rows(order.windows(range(n, n + 100))), range(0, 3000, 100))
                assert [row for part in parts for row in part] == straight
    finally:
        sys.setswitchinterval(interval)


def test_half_of_the_windows_come_from_the_other_strand() -> None:
    spec = {"seed": 5, "seq_len": 64, "streams": 8, "shuffle_blocks": 4}
    assert abs(epoch(SampleOrder(np.full(50, 4096), **spec), 0).reverse.mean() - 0.5) < 0.03
    assert not epoch(SampleOrder(np.full(50, 4096), **spec, reverse_complement=False), 0).reverse.any()


def test_nonsense_is_refused() -> None:
    for bases, change in [
        ([], {}),
        ([0], {}),
        ([5], {"seq_len": 0}),
        ([5], {"mixture": Mixture(np.zeros(1, int), np.zeros(1))}),
    ]:
        with pytest.raises(ValueError, match=r"order needs|at least 1|weight 0"):
            SampleOrder(np.array(bases), **{"seed": 0, "seq_len": 4, "streams": 1, "shuffle_blocks": 1, **change})


def test_held_out_windows_are_whole_spread_and_fixed() -> None:
    bases = np.array([10_000, 300, 50_000])
    windows = held_out_windows(bases, seq_len=1000, count=16)
    assert rows(windows) == rows(held_out_windows(bases, seq_len=1000, count=16))
    assert {0, 2} <= set(windows.block.tolist())
    assert (windows.end - windows.start == np.minimum(1000, bases[windows.block])).all()
    assert len(held_out_windows(bases, seq_len=1000, count=10**6)) == 10 + 1 + 50

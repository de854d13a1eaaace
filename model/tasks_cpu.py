"""Spread independent pieces of CPU work over a few threads; the kernels they call release the GIL.

A Python pool instead of numba's own threading layer: it survives fork, needs no OpenMP or TBB, and follows
`torch.set_num_threads`, so that two workers with one thread each do not fight for two cores.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

CHANNELS = 128  # per task: wide enough to amortise loop overhead, small enough for the state to stay in cache

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (threads do not survive a fork) and size


def _pool(threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="dnachunker-cpu")
    return _pools[key]


def run_tasks(function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Call `function(*task)` for every task, on at most `torch.get_num_threads()` threads, this one included.

    Each thread takes the next task when it is free. Tasks must write to places of their own.
    """
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for task in tasks:
            function(*task)
        return
    queue: Iterator[tuple[Any, ...]] = iter(tasks)  # `next` on a list iterator is atomic

    def work() -> None:
        for task in queue:
            function(*task)

    helpers = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        helper.result()


def stretches(cu_seqlens: Tensor, channels: int) -> list[tuple[int, int, int, int, int, int]]:
    """Tasks (sequence, start, stop, part, low, high): every non-empty sequence times every stretch of channels.

    Longest sequences come first, so that no thread ends up alone with a long one.
    """
    borders = cu_seqlens.tolist()
    sequences = [(s, a, b) for s, (a, b) in enumerate(pairwise(borders)) if b > a]
    sequences.sort(key=lambda item: item[1] - item[2])
    parts = [(p, low, min(low + CHANNELS, channels)) for p, low in enumerate(range(0, channels, CHANNELS))]
    return [(*sequence, *part) for sequence in sequences for part in parts]

"""The compiled CPU loops as differentiable torch functions: selective scan, convolution with SiLU, smoothing.

Same signatures as `kernels_reference.py`; float32 tensors on the CPU only (`kernels.py` casts).
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from .kernels_cpu_loops import (
    SCAN_STRIDE,
    conv_silu_backward,
    conv_silu_forward,
    scan_backward,
    scan_forward,
    smooth_backward,
    smooth_forward,
)


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as a C-contiguous numpy array, without a copy where it is contiguous."""
    return tensor.detach().contiguous().numpy()


def _parts(channels: int) -> int:
    return math.ceil(channels / CHANNELS)


class _SelectiveScan(Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        cu_seqlens: Tensor,
        reverse: bool,
    ) -> Tensor:
        keep = any(ctx.needs_input_grad)
        rows = (cu_seqlens.diff().long() + SCAN_STRIDE - 1) // SCAN_STRIDE
        first_row = (rows.cumsum(0) - rows).tolist()
        states = torch.empty(int(rows.sum()) if keep else 0, A.shape[1], A.shape[0])
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        rate = A.detach().t().mul(1 / math.log(2)).contiguous()
        arrays = [_array(x) for x in (u, delta, rate, B, C, D, y, states)]

        def task(sequence: int, start: int, stop: int, part: int, low: int, high: int) -> None:
            scan_forward(*arrays, first_row[sequence], start, stop, low, high, reverse, keep)

        run_tasks(task, stretches(cu_seqlens, u.shape[1]))
        ctx.save_for_backward(u, delta, rate, B, C, D, states, cu_seqlens)
        ctx.first_row, ctx.reverse = first_row, reverse
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, rate, B, C, D, states, cu_seqlens = ctx.saved_tensors
        sequences, parts = len(cu_seqlens) - 1, _parts(u.shape[1])
        # contiguous: numpy would copy another layout, and what the loops write would be lost with the copy
        du = torch.empty_like(u, memory_format=torch.contiguous_format)
        ddelta = torch.empty_like(delta, memory_format=torch.contiguous_format)
        dA = torch.zeros(sequences, *rate.shape)
        dD = torch.zeros(sequences, *D.shape)
        dB, dC = torch.empty(parts, *B.shape), torch.empty(parts, *C.shape)
        inputs = [_array(x) for x in (grads[0], u, delta, rate, B, C, D, states)]
        outputs = [_array(x) for x in (du, ddelta)]
        shared = [_array(x) for x in (dA, dB, dC, dD)]

        def task(sequence: int, start: int, stop: int, part: int, low: int, high: int) -> None:
            da, db, dc, dd = shared[0][sequence], shared[1][part], shared[2][part], shared[3][sequence]
            border = (start, stop, low, high, ctx.reverse)
            scan_backward(*inputs, *outputs, da, db, dc, dd, ctx.first_row[sequence], *border)

        run_tasks(task, stretches(cu_seqlens, u.shape[1]))
        return du, ddelta, dA.sum(0).t(), dB.sum(0), dC.sum(0), dD.sum(0), None, None


class _ConvSiLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, reverse: bool) -> Tensor:
        taps = weight.detach().t().flip(0).contiguous()  # (4, D): tap k weighs the value of k steps before
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        arrays = [_array(tensor) for tensor in (x, taps, bias, y)]

        def task(sequence: int, start: int, stop: int, part: int, low: int, high: int) -> None:
            conv_silu_forward(*arrays, start, stop, low, high, reverse)

        run_tasks(task, stretches(cu_seqlens, x.shape[1]))
        ctx.save_for_backward(x, taps, bias, cu_seqlens)
        ctx.reverse = reverse
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, bias, cu_seqlens = ctx.saved_tensors
        sequences = len(cu_seqlens) - 1
        dx = torch.empty(x.shape)
        dweight, dbias = torch.zeros(sequences, *taps.shape), torch.zeros(sequences, *bias.shape)
        inputs = [_array(tensor) for tensor in (grads[0], x, taps, bias, dx)]
        shared = [_array(tensor) for tensor in (dweight, dbias)]

        def task(sequence: int, start: int, stop: int, part: int, low: int, high: int) -> None:
            border = (start, stop, low, high, ctx.reverse)
            conv_silu_backward(*inputs, shared[0][sequence], shared[1][sequence], *border)

        run_tasks(task, stretches(cu_seqlens, x.shape[1]))
        return dx, dweight.sum(0).flip(0).t(), dbias.sum(0), None, None


class _Smooth(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, gate: Tensor, cu_seqlens: Tensor, reverse: bool) -> Tensor:
        f = torch.empty_like(z, memory_format=torch.contiguous_format)
        arrays = [_array(tensor) for tensor in (z, gate, f)]

        def task(sequence: int, start: int, stop: int, part: int, low: int, high: int) -> None:
            smooth_forward(*arrays, start, stop, low, high, reverse)

        run_tasks(task, stretches(cu_seqlens, z.shape[1]))
        ctx.save_for_backward(z, gate, f, cu_seqlens)
        ctx.reverse = reverse
        return f

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, gate, f, cu_seqlens = ctx.saved_tensors
        dz = torch.empty(z.shape)
        dgate = torch.empty(_parts(z.shape[1]), len(gate))
        inputs = [_array(tensor) for tensor in (grads[0], z, gate, f, dz)]
        shared = _array(dgate)

        def task(sequence: int, start: int, stop: int, part: int, low: int, high: int) -> None:
            smooth_backward(*inputs, shared[part], start, stop, low, high, ctx.reverse)

        run_tasks(task, stretches(cu_seqlens, z.shape[1]))
        return dz, dgate.sum(0), None, None


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, reverse: bool
) -> Tensor:
    """`kernels_reference.selective_scan` on float32 CPU tensors, compiled."""
    y: Tensor = _SelectiveScan.apply(u, delta, A, B, C, D, cu_seqlens, reverse)
    return y


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, reverse: bool) -> Tensor:
    """`kernels_reference.conv_silu` on float32 CPU tensors with a filter of width 4, compiled."""
    y: Tensor = _ConvSiLU.apply(x, weight, bias, cu_seqlens, reverse)
    return y


def smooth(z: Tensor, gate: Tensor, cu_seqlens: Tensor, reverse: bool) -> Tensor:
    """`kernels_reference.smooth` on float32 CPU tensors, compiled."""
    f: Tensor = _Smooth.apply(z, gate, cu_seqlens, reverse)
    return f


CHANNELS = 128  # per task: wide enough to amortise loop overhead, small enough for the state to stay in cache

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (threads do not survive a fork) and size


def _pool(threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="dnachunker-cpu")
    return _pools[key]


def run_tasks(function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Call `function(*task)` for every task, on at most `torch.get_num_threads()` threads, the caller's included.

    Each thread takes the next task when it is free. No two tasks may write to the same memory.
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


def stretches(cu_seqlens: Tensor, channels: int) -> list[tuple[Any, ...]]:
    """Tasks (sequence, start, stop, part, low, high): every non-empty sequence times every stretch of channels.

    Longest sequences come first, so that no thread ends up alone with a long one. The borders of channels are unsigned:
    numba counts a negative index from the end, and where LLVM cannot rule one out, it gathers the channels one by one.
    """
    borders = cu_seqlens.tolist()
    sequences = [(s, a, b) for s, (a, b) in enumerate(pairwise(borders)) if b > a]
    sequences.sort(key=lambda item: item[1] - item[2])
    parts = [
        (part, np.uint64(low), np.uint64(min(low + CHANNELS, channels)))
        for part, low in enumerate(range(0, channels, CHANNELS))
    ]
    return [(*sequence, *part) for sequence in sequences for part in parts]

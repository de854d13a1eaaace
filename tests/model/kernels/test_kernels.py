"""Every kernel equals the plain-torch reference, forward and backward, on ragged packed sequences."""

import re
from functools import partial

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_gradients import assert_close, borders, with_gradients
from torch import Tensor

from dnachunker.model import kernels, kernels_cpu, kernels_cpu_loops, kernels_reference
from dnachunker.model.attention import packed_attention
from dnachunker.model.kernels import attention_backend, scan_backend, selective_scan
from dnachunker.model.packing import Packing

LENGTHS = st.lists(st.one_of(st.just(0), st.just(1), st.integers(2, 70)), min_size=1, max_size=5).filter(any)


def scan_inputs(total: int, channels: int, state: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.randn
    u, delta = draw(total, channels, dtype=dtype), torch.rand(total, channels, dtype=dtype)
    A = -torch.rand(channels, state, dtype=dtype) * state
    return [u, delta, A, *(draw(total, state, dtype=dtype) for _ in range(2)), draw(channels, dtype=dtype)]


@settings(max_examples=12, deadline=None)
@given(LENGTHS, st.sampled_from([3, 130]), st.sampled_from([1, 16]), st.booleans(), st.integers(0, 99))
def test_compiled_scan(lengths: list[int], channels: int, state: int, reverse: bool, seed: int) -> None:
    torch.manual_seed(seed)
    inputs = scan_inputs(sum(lengths), channels, state)
    both = [
        with_gradients(run, inputs, borders(lengths), reverse)
        for run in (kernels_cpu.selective_scan, kernels_reference.selective_scan)
    ]
    assert_close(*both)


@settings(max_examples=12, deadline=None)
@given(LENGTHS, st.sampled_from([3, 130]), st.booleans(), st.integers(0, 99))
def test_compiled_convolution_and_smoothing(lengths: list[int], channels: int, reverse: bool, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(sum(lengths), channels)
    convolution = [x, torch.randn(channels, 4), torch.randn(channels)]
    smoothing = [x, torch.rand(sum(lengths))]
    for name, inputs in (("conv_silu", convolution), ("smooth", smoothing)):
        both = [
            with_gradients(getattr(module, name), inputs, borders(lengths), reverse)
            for module in (kernels_cpu, kernels_reference)
        ]
        assert_close(*both)


@pytest.mark.parametrize("reverse", [False, True])
def test_compiled_loops_on_a_ragged_batch_with_long_sequences(reverse: bool) -> None:
    torch.manual_seed(0)
    lengths = [4096, 1, 0, 777, 33]
    total, cu = sum(lengths), borders(lengths)
    scan = scan_inputs(total, 4, 16)
    scan[1] *= 0.1
    x = torch.randn(total, 4)
    for name, inputs in (
        ("selective_scan", scan),
        ("conv_silu", [x, torch.randn(4, 4), torch.randn(4)]),
        ("smooth", [x, torch.rand(total)]),
    ):
        both = [
            with_gradients(getattr(module, name), inputs, cu, reverse) for module in (kernels_cpu, kernels_reference)
        ]
        assert_close(*both)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_reference_is_what_its_docstring_says(reverse: bool) -> None:
    torch.manual_seed(0)
    u, delta, A, B, C, D = scan_inputs(5, 2, 3, torch.float64)
    h = torch.zeros(2, 3, dtype=torch.float64)
    expected = torch.empty_like(u)
    for t in reversed(range(5)) if reverse else range(5):
        h = torch.exp(delta[t, :, None] * A) * h + delta[t, :, None] * B[t] * u[t, :, None]
        expected[t] = h @ C[t] + D * u[t]
    result = kernels_reference.selective_scan(u, delta, A, B, C, D, borders([5]), reverse)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck_of_the_references(reverse: bool) -> None:
    torch.manual_seed(0)
    lengths = [3, 1, 2]
    cu = borders(lengths)
    inputs = [x.requires_grad_() for x in scan_inputs(6, 2, 2, torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: kernels_reference.selective_scan(*x, cu, reverse), inputs)
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    gate = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: kernels_reference.smooth(*x, cu, reverse), (x, gate))
    weight = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: kernels_reference.conv_silu(*x, cu, reverse), (x, weight, bias))


def test_the_compiled_scan_does_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    inputs, cu = scan_inputs(200, 300, 16), borders([70, 130])
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(with_gradients(kernels_cpu.selective_scan, inputs, cu, False))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_compiled_loops_read_neighbouring_channels_at_once() -> None:
    loop = kernels_cpu_loops.smooth_forward
    _, start, stop, _, low, high = kernels_cpu.stretches(borders([9]), 300)[-1]
    values, gate = torch.zeros(9, 300).numpy(), torch.zeros(9).numpy()
    fresh = numba.njit(fastmath=loop.targetoptions["fastmath"])(loop.py_func)  # of a cached one numba keeps no IR
    fresh(values, gate, values, start, stop, low, high, False)
    (ir,) = fresh.inspect_llvm().values()
    assert "x float>" in ir
    assert not re.search("gather|scatter", ir)


def test_the_exponential_of_the_compiled_loops() -> None:
    y = -np.concatenate([np.linspace(0, 2, 4001), np.linspace(2, 126, 2001)]).astype(np.float32)
    found = np.array([kernels_cpu_loops.exp2_negative(value) for value in y])
    np.testing.assert_allclose(found, np.exp2(y.astype(np.float64)), rtol=2e-7)
    assert found[0] == 1
    assert kernels_cpu_loops.exp2_negative(np.float32(-1e30)) < 1e-37
    assert np.isnan(kernels_cpu_loops.exp2_negative(np.float32(np.nan)))


@pytest.mark.parametrize("which", range(6))
def test_a_nan_does_not_vanish_in_the_compiled_scan(which: int) -> None:
    torch.manual_seed(0)
    inputs = scan_inputs(40, 20, 16)
    inputs[which].view(-1)[3] = torch.nan
    assert kernels_cpu.selective_scan(*inputs, borders([40]), False).isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_keep_their_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs = [x.to(dtype) for x in scan_inputs(20, 4, 4)]
    result = selective_scan(*inputs, borders([20]), reverse=False)
    expected = kernels_reference.selective_scan(*(x.double() for x in inputs), borders([20]), False)
    assert result.dtype == dtype
    assert_close([result.double()], [expected], 1e-2 if dtype == torch.bfloat16 else 1e-12)


def naive_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], causal: bool) -> Tensor:
    outputs = []
    for a, b, c in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        scores = torch.einsum("qhd,khd->hqk", a, b) / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), c))
    return torch.cat(outputs)


@pytest.mark.parametrize("causal", [False, True])
def test_packed_attention_is_attention_inside_each_sequence(causal: bool) -> None:
    torch.manual_seed(0)
    lengths = [5, 1, 0, 17, 5]
    q, k, v = (torch.randn(sum(lengths), 2, 8) for _ in range(3))
    packing = Packing(borders(lengths), sum(lengths))
    ours = with_gradients(partial(packed_attention, causal=causal), [q, k, v], packing, "sdpa")
    assert_close(ours, with_gradients(naive_attention, [q, k, v], lengths, causal))


@pytest.mark.parametrize("backend", ["cpu", "chunked", "reference"])
def test_smoothing_read_forward(backend: str) -> None:
    torch.manual_seed(0)
    lengths = [5, 1, 0, 17]
    inputs = [torch.randn(sum(lengths), 3), torch.rand(sum(lengths))]
    ours = with_gradients(partial(kernels.smooth, backend=backend), inputs, borders(lengths))
    assert_close(ours, with_gradients(kernels_reference.smooth, inputs, borders(lengths), False))


def test_a_backend_that_cannot_run_is_refused_with_a_remedy() -> None:
    for call in (
        lambda: scan_backend("cpu", "cuda", torch.float32),
        lambda: scan_backend("warp", "cpu", torch.float32),
        lambda: scan_backend("mamba_ssm", "cpu", torch.float32),
        lambda: attention_backend("torch_varlen", "cpu", torch.float32),
    ):
        with pytest.raises(ValueError, match=r"auto|bf16"):
            call()

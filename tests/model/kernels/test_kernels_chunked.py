"""The chunked scan and smoothing equal the reference, whatever the lengths, the packing and the decays."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_gradients import borders, with_gradients
from torch import Tensor

from dnachunker.model import kernels_chunked, kernels_reference
from dnachunker.model.kernels import selective_scan

BLOCK = kernels_chunked.BLOCK
EDGES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1]
LENGTHS = st.lists(st.one_of(st.sampled_from(EDGES), st.integers(2, 5 * BLOCK)), min_size=1, max_size=6)
RUNS = (kernels_chunked, kernels_reference)


def scan_inputs(total: int, channels: int, states: int, speed: float) -> list[Tensor]:
    """Inputs of a scan; the larger `speed`, the faster states decay."""
    A = -torch.rand(channels, states) * speed
    B, C = torch.randn(total, states), torch.randn(total, states)
    return [torch.randn(total, channels), torch.rand(total, channels), A, B, C, torch.randn(channels)]


def assert_same(name: str, inputs: list[Tensor], lengths: list[int], reverse: bool) -> None:
    """Relative to the largest value: results to 1e-5, gradients to 1e-4."""
    ours, theirs = (with_gradients(getattr(module, name), inputs, borders(lengths), reverse) for module in RUNS)
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.isfinite().all(), f"tensor {index}"
        scale = float(b.abs().max().clamp_min(1)) if len(b) else 1.0
        assert float((a - b).abs().max() if len(b) else 0) <= (1e-4 if index else 1e-5) * scale, f"tensor {index}"


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from([1, 7]), st.sampled_from([1, 16]), st.sampled_from([0.01, 1, 1e4]), st.booleans())
def test_the_scan(lengths: list[int], channels: int, states: int, speed: float, reverse: bool) -> None:
    torch.manual_seed(0)
    assert_same("selective_scan", scan_inputs(sum(lengths), channels, states, speed), lengths, reverse)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.booleans(), st.booleans())
def test_the_smoothing(lengths: list[int], closed: bool, reverse: bool) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    gate = torch.rand(total).round() if closed else torch.rand(total)
    assert_same("smooth", [torch.randn(total, 3), with_sequences_entered(gate, lengths, reverse)], lengths, reverse)


def with_sequences_entered(gate: Tensor, lengths: list[int], reverse: bool) -> Tensor:
    """The gate is 1 where the direction enters a sequence, as the callers of `smooth` guarantee."""
    _, step, _ = kernels_reference.time_grid(borders(lengths), reverse)
    return torch.where(step == 0, 1.0, gate)


@pytest.mark.parametrize("reverse", [False, True])
def test_long_sequences_have_blocks_of_blocks(reverse: bool) -> None:
    torch.manual_seed(0)
    lengths = [4 * BLOCK**2 + 5, 1, 0, 777]
    assert_same("selective_scan", scan_inputs(sum(lengths), 2, 4, 0.1), lengths, reverse)
    gate = with_sequences_entered(torch.rand(sum(lengths)) * 0.01, lengths, reverse)
    assert_same("smooth", [torch.randn(sum(lengths), 2), gate], lengths, reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_channels_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch, reverse: bool) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(kernels_chunked, "_STATES_CPU", 3 * 100 * 4)
    assert_same("selective_scan", scan_inputs(100, 7, 4, 1), [70, 30], reverse)


def test_only_inputs_are_kept_for_the_backward_pass() -> None:
    inputs = [x.requires_grad_() for x in scan_inputs(64, 8, 16, 1)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        kernels_chunked.selective_scan(*inputs, borders([64]), False)
    assert max(kept) == 64 * 16, "B and C; the states are 64 x 8 x 16"


@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck_in_float64(reverse: bool) -> None:
    torch.manual_seed(0)
    lengths = [2 * BLOCK, 1, BLOCK + 2]
    total = sum(lengths)
    scan = [x.double().requires_grad_() for x in scan_inputs(total, 1, 2, 1)]
    run = kernels_chunked.selective_scan
    assert torch.autograd.gradcheck(lambda *x: run(*x, borders(lengths), reverse), scan, fast_mode=True)
    gate = with_sequences_entered(torch.rand(total), lengths, reverse).double()
    smoothing = (torch.randn(total, 2, dtype=torch.float64, requires_grad=True), gate.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda *x: kernels_chunked.smooth(*x, borders(lengths), reverse), smoothing, fast_mode=True
    )


def test_half_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    inputs = [x.bfloat16() for x in scan_inputs(300, 4, 4, 0.1)]
    expected = kernels_reference.selective_scan(*(x.float() for x in inputs), borders([300]), False)
    for result in (
        kernels_chunked.selective_scan(*inputs, borders([300]), False),
        selective_scan(*inputs, borders([300]), reverse=False, backend="chunked"),
    ):
        assert result.dtype == torch.bfloat16
        assert float((result.float() - expected).abs().max()) <= 1e-2 * float(expected.abs().max())

"""mamba-ssm, flash-attn and torch's varlen attention are called as they want to be.

They run on NVIDIA GPUs only. The stand-ins have their signatures (mamba-ssm 2.3.2, flash-attn 2.8.4, torch 2.13), make
the checks of their Python and C++ code, and compute the result in plain torch.
"""

import sys
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from kernel_gradients import assert_close, borders, with_gradients
from torch import Tensor

from dnachunker.model import kernels, kernels_mamba_ssm, kernels_reference
from dnachunker.model.attention import packed_attention
from dnachunker.model.kernels import attention_backend, scan_backend
from dnachunker.model.packing import Packing

RAGGED = [7, 1, 0, 40, 3]


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, return_last_state: bool = False,
) -> Tensor:  # fmt: skip
    """u, delta (B, D, L); A (D, N) float32; B, C (B, N, L) with the dtype of u; D (D,) float32."""
    batch, channels, length = u.shape
    states = A.shape[1]
    assert u.dtype in (torch.float32, torch.float16, torch.bfloat16)
    assert delta.dtype == B.dtype == C.dtype == u.dtype
    assert A.dtype == torch.float32
    assert delta.shape == u.shape
    assert A.shape == (channels, states)
    assert states <= 256
    assert B.shape == C.shape == (batch, states, length)
    if D is not None:
        assert D.dtype == torch.float32
        assert D.shape == (channels,)
    assert z is delta_bias is None
    assert not delta_softplus
    assert not return_last_state
    state, outputs = u.new_zeros(batch, channels, states), []
    for t in range(length):
        decay = torch.exp(delta[..., t, None] * A)
        state = decay * state + (delta[..., t] * u[..., t])[..., None] * B[:, None, :, t]
        outputs.append((state * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, -1)
    return y if D is None else y + u * D[:, None]


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, alibi_slopes: Tensor | None = None,
    deterministic: bool = False, return_attn_probs: bool = False, block_table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """q, k, v (T, H, D/H) in half precision; the library pads heads to a multiple of 8 itself."""
    assert dropout_p == softcap == 0
    assert alibi_slopes is block_table is None
    assert tuple(window_size) == (-1, -1)
    assert not return_attn_probs
    return attended(q, k, v, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k), softmax_scale, causal)


def with_log_sum_exp(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    seqused_q: Tensor | None = None, seqused_k: Tensor | None = None, softmax_scale: float | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """FlashAttention-3's in the releases that always return the log-sum-exp too."""
    assert q.shape[-1] % 8 == 0
    assert seqused_q is seqused_k is None
    lengths = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    return attended(q, k, v, *lengths, softmax_scale, causal), torch.empty(0)


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor | None, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False, seqused_k: Tensor | None = None, block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:  # fmt: skip
    """As flash-attn's, but heads must be padded by the caller, and causal is the window (-1, 0)."""
    assert query.shape[-1] % 8 == 0, "head_size must be a multiple of 8, this is ensured by padding!"
    assert cu_seq_k is not None
    assert return_aux is seqused_k is block_table is num_splits is None
    assert not enable_gqa
    assert window_size in ((-1, -1), (-1, 0))
    return attended(query, key, value, (cu_seq_q, cu_seq_k), (max_q, max_k), scale, window_size == (-1, 0))


def attended(
    q: Tensor, k: Tensor, v: Tensor, cu: tuple[Tensor, Tensor], longest: tuple[int, int], scale: float | None,
    causal: bool,
) -> Tensor:  # fmt: skip
    """The checks of the C++ code, and attention in float32."""
    assert q.dtype in (torch.float16, torch.bfloat16)
    assert q.dtype == k.dtype == v.dtype
    assert q.shape == k.shape == v.shape
    assert q.shape[-1] <= 256
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    for borders_of, most in zip(cu, longest, strict=True):
        assert borders_of.dtype == torch.int32
        assert borders_of.is_contiguous()
        assert len(borders_of) > 1, "batch size must be positive"
        assert isinstance(most, int)
        assert int(borders_of[-1]) == len(q)
        assert int(borders_of.diff().max()) <= most
    lengths = cu[0].diff().tolist()
    outputs = []
    for a, b, c in zip(*(x.float().split(lengths) for x in (q, k, v)), strict=True):
        scores = torch.einsum("qhd,khd->hqk", a, b) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), c))
    return torch.cat(outputs).to(q.dtype)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    """Make `import name` give a module of these functions."""
    for end in range(1, name.count(".") + 2):
        monkeypatch.setitem(sys.modules, ".".join(name.split(".")[:end]), ModuleType(name))
    vars(sys.modules[name]).update(functions)


@pytest.fixture(autouse=True)
def looked_up_anew() -> Iterator[None]:
    caches = (kernels.offers, kernels._warn_once)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "mamba_ssm.ops.selective_scan_interface", selective_scan_fn=selective_scan_fn)
    stand_in(monkeypatch, "selective_scan_cuda", fwd=None)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [[5], RAGGED])
def test_mamba_ssm(mamba_ssm: None, lengths: list[int], reverse: bool) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    inputs = [torch.randn(total, 6), torch.rand(total, 6), -torch.rand(6, 4), torch.randn(total, 4)]
    inputs += [torch.randn(total, 4), torch.randn(6)]
    both = [
        with_gradients(run, inputs, borders(lengths), reverse)
        for run in (kernels_mamba_ssm.selective_scan, kernels_reference.selective_scan)
    ]
    assert_close(*both, 1e-5)


def test_mamba_ssm_gets_float32_from_a_model_in_half_precision(
    mamba_ssm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kernels._SCAN, "mamba_ssm", kernels.Backend((), lambda device, dtype: ""))
    half = [torch.rand(9, 6), torch.rand(9, 6), -torch.rand(6, 4), torch.rand(9, 4), torch.rand(9, 4), torch.rand(6)]
    half = [x.bfloat16() for x in half]
    run = partial(kernels.selective_scan, cu_seqlens=borders([9]), reverse=False)
    both = [with_gradients(partial(run, backend=backend), half) for backend in ("mamba_ssm", "reference")]
    assert_close(*both, 1e-2)


def test_mamba_ssm_is_chosen_on_cuda_without_triton(
    mamba_ssm: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "triton_works", lambda device: False)
    assert scan_backend("auto", "cuda", torch.bfloat16) == "mamba_ssm"
    assert scan_backend("auto", "cpu", torch.float32) == "cpu"
    assert scan_backend("mamba_ssm", "cuda", torch.float64) == "reference"


def test_mamba_ssm_without_its_cuda_scan_is_not_used(mamba_ssm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 2.3.2 the CUDA scan is left out unless asked for; the interface then loads and fails when called."""
    monkeypatch.setattr(kernels, "triton_works", lambda device: False)
    monkeypatch.delitem(sys.modules, "selective_scan_cuda")
    assert scan_backend("auto", "cuda", torch.bfloat16) == "chunked"
    with pytest.raises(ValueError, match="MAMBA_KEEP_CUDA_BUILD=TRUE pip install mamba-ssm"):
        scan_backend("mamba_ssm", "cuda", torch.float32)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two libraries' attention is a stand-in that runs on the CPU."""
    stand_in(monkeypatch, "flash_attn", flash_attn_varlen_func=flash_attn_varlen_func)
    stand_in(monkeypatch, "flash_attn_interface", flash_attn_varlen_func=with_log_sum_exp)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    for name in ("flash_attn_3", "flash_attn", "torch_varlen"):
        monkeypatch.setitem(kernels._ATTENTION, name, kernels.Backend((), lambda device, dtype: ""))


@pytest.mark.parametrize("backend", ["flash_attn_3", "flash_attn", "torch_varlen"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [5, 8])
@pytest.mark.parametrize("filled", [False, True], ids=["counted", "filler"])
def test_attention(on_cpu: None, backend: str, causal: bool, width: int, filled: bool) -> None:
    torch.manual_seed(0)
    packing = Packing(borders(RAGGED), sum(RAGGED), max(RAGGED))
    if filled:
        packing = Packing.filled_up(packing.cu_seqlens, 64, 40)
    qkv = torch.randn(packing.total, 3, 2, width).bfloat16()  # as the trunk makes them: v is a slice

    def run(qkv: Tensor, name: str) -> Tensor:
        q, k, v = qkv.unbind(1)
        return packed_attention(q + 0, k + 0, v, packing, name, causal=causal)

    ours, theirs = (with_gradients(run, [qkv], name) for name in (backend, "sdpa"))
    assert_close(ours, theirs, 2e-2)


@pytest.mark.parametrize("backend", ["flash_attn", "torch_varlen", "sdpa"])
def test_attention_over_nothing(on_cpu: None, backend: str) -> None:
    empty = torch.zeros(0, 2, 8, dtype=torch.bfloat16)
    assert packed_attention(empty, empty, empty, Packing(borders([]), 0), backend).shape == (0, 2, 8)


def test_flash_attn_is_chosen_where_its_function_loads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, "flash_attn", flash_attn_varlen_func=flash_attn_varlen_func)
    stand_in(monkeypatch, "flash_attn_interface", flash_attn_varlen_func=with_log_sum_exp)
    assert attention_backend("auto", "cuda", torch.bfloat16) == "flash_attn"
    with pytest.raises(ValueError, match="needs a Hopper GPU"):
        attention_backend("flash_attn_3", "cuda", torch.bfloat16)
    monkeypatch.setattr(kernels, "is_hopper", lambda: True)
    assert attention_backend("auto", "cuda", torch.bfloat16) == "flash_attn_3"
    assert attention_backend("auto", "cuda", torch.float32) == "sdpa"
    monkeypatch.setattr(kernels, "is_hopper", lambda: False)
    kernels.offers.cache_clear()
    stand_in(monkeypatch, "flash_attn")  # flash-attn-4 alone: a package without the function
    assert attention_backend("auto", "cuda", torch.bfloat16) == "torch_varlen"
    with pytest.raises(ValueError, match="no function flash_attn_varlen_func in a module flash_attn"):
        attention_backend("flash_attn", "cuda", torch.bfloat16)
    assert not caplog.records


def test_a_library_built_for_another_torch_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    assert attention_backend("auto", "cuda", torch.bfloat16) == "torch_varlen"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "flash_attn is installed but does not load (ImportError: undefined symbol: _ZN3c10)"
    ]

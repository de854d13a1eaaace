"""Operations that torch has for CUDA only, by their meaning on the CPU."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def _rms_norm(x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    dims = list(range(-len(shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    rstd = torch.rsqrt(x.float().pow(2).mean(dims, keepdim=True) + eps)
    y = (x.float() * rstd).to(x.dtype)
    return (y if weight is None else y * weight), rstd


def _rms_norm_backward(
    grad: Tensor, x: Tensor, shape: list[int], rstd: Tensor, weight: Tensor, mask: list[bool]
) -> tuple[Tensor, Tensor]:
    dims = list(range(-len(shape), 0))
    wide, g, r = x.float(), grad.float() * weight.float(), rstd.float()
    to_x = r * (g - wide * r * r * (g * wide).mean(dims, keepdim=True))
    to_weight = (grad.float() * wide * r).flatten(0, -1 - len(shape)).sum(0)
    return to_x.to(x.dtype), to_weight.to(weight.dtype)


def _probabilities(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1)


def _sequences(cu_seqlens: Tensor) -> Iterator[slice]:
    borders = cu_seqlens.tolist()
    return (slice(begin, end) for begin, end in pairwise(borders) if end > begin)


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, most_q: int, most_k: int, causal: bool, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    # what the CUDA kernel asks of its arguments
    assert cu_q.dtype == torch.int32, cu_q.dtype
    assert q.dtype in (torch.bfloat16, torch.float16), q.dtype
    assert q.stride(-1) == 1, q.stride()
    assert q.shape[-1] % 8 == 0, q.shape
    assert int(cu_q[-1]) == q.shape[0], (cu_q, q.shape)
    assert int(cu_q.diff().max()) <= most_q, (cu_q, most_q)
    out = torch.empty_like(q)
    for part in _sequences(cu_q):
        weights = _probabilities(q[part], k[part], causal)
        out[part] = torch.einsum("hqk,khd->qhd", weights, v[part].float()).to(q.dtype)
    return out, torch.zeros(q.shape[1], q.shape[0]), torch.zeros(2, dtype=torch.uint64)


def _varlen_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu_q: Tensor, cu_k: Tensor,
    most_q: int, most_k: int, causal: bool, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    for part in _sequences(cu_q):
        p, g = _probabilities(q[part], k[part], causal), grad[part].float()
        to_v[part] = torch.einsum("hqk,qhd->khd", p, g).to(v.dtype)
        to_p = torch.einsum("qhd,khd->hqk", g, v[part].float())
        to_scores = p * (to_p - (to_p * p).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        to_q[part] = torch.einsum("hqk,khd->qhd", to_scores, k[part].float()).to(q.dtype)
        to_k[part] = torch.einsum("hqk,qhd->khd", to_scores, q[part].float()).to(q.dtype)
    return to_q, to_k, to_v


ON_CPU: dict[str, Callable[..., Any]] = {
    "aten::_fused_rms_norm": _rms_norm,
    "aten::_fused_rms_norm_backward": _rms_norm_backward,
    "torch_attn::_varlen_attn": _varlen,
    "torch_attn::_varlen_attn_backward": _varlen_backward,
}

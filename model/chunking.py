"""From positions to chunks and back: gather vectors at boundaries, spread and smooth them, add gated residuals."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .kernels import add_shown, smooth
from .kernels import smooth_both_ways as smooth_gated
from .routing import Segmentation
from .split_operations import smooth_both_ways as smooth_split
from .split_packing import SplitPacking
from .time_blocks import takes_blocks

_CHANNELS = 32  # smoothed at a time where memory is saved


def gather_chunks(x: Tensor, segmentation: Segmentation, pooling: str = "first") -> tuple[Tensor, Tensor]:
    """x (T, D) itself, and chunk vectors (C, D): those of each chunk's first position, or means over the chunk.

    Go on with the x that is returned: the backward pass then adds the chunks' gradients to its gradient in one launch.
    """
    if pooling == "first":
        rest, chunks = _Taken.apply(x, segmentation.starts)
        return rest, chunks
    sizes = segmentation.total(torch.ones_like(segmentation.chunk))
    # only filler chunks are empty
    return x, segmentation.total(x) / sizes.clamp_min(1).unsqueeze(-1).to(x.dtype)


class _Taken(Function):
    """x (T, D) and its rows at index (C,) int64."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        return x.view_as(x), x[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        of_rest, of_rows = grads
        return of_rest.index_add(0, index, of_rows), None


def smooth_both_ways(
    z: Tensor, segmentation: Segmentation, backend: str = "auto",
    residual: Tensor | None = None, hidden: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Gated smoothing from both sides, the path by which the MLM loss reaches the router; in float32.

    f_t = g_t z_t + (1 - g_t) f_{t-1};  h_t = g_{t+1} z_t + (1 - g_{t+1}) h_{t+1};  out = (f + h) / 2.
    A gate belongs to the border between two positions and both ends of a sequence are closed with 1, so that
    reversing positions and borders reverses the result. At a position whose two borders are closed, out = z.

    Args:
        z: (T, D), chunk vectors spread to their positions.
        residual: (T, D) to add. hidden: (T,) bool, positions where it is not added.

    Returns:
        (T, D), dtype of z, or of the sum.
    """
    packing, gate = segmentation.packing, segmentation.gate
    with torch.autocast(z.device.type, enabled=False):
        gates = torch.stack((gate, packing.shift(gate, 1.0, back=True)))
        if isinstance(packing, SplitPacking):
            return add_shown(smooth_split(z, gates, packing, backend=backend), residual, hidden)
        return smooth_gated(z, gates, packing.cu_seqlens, residual, hidden, backend=backend)


def smooth_forward(z: Tensor, segmentation: Segmentation, backend: str = "auto") -> Tensor:
    """f of `smooth_both_ways` alone, which does not depend on later positions. z (T, D) -> (T, D), dtype of z."""
    with torch.autocast(z.device.type, enabled=False):
        return smooth(z, segmentation.gate, segmentation.packing.cu_seqlens, backend=backend)


def spread_chunks(
    chunks: Tensor,
    residual: Tensor,
    segmentation: Segmentation,
    *,
    residual_gating: bool,
    causal: bool = False,
    backend: str = "auto",
    block: int = 0,
) -> Tensor:
    """Dechunk: every position takes its chunk's vector, smoothed, plus the encoder's output there.

    Args:
        chunks: (C, D). residual: (T, D), the encoder's output at this stage.
        block: where a window is longer and no gradients are needed, memory is saved.

    Returns:
        (T, D).
    """
    # the encoder's output is left out wherever the position's chunk holds a mask
    hidden = segmentation.spread(segmentation.chunk_holds_mask) if residual_gating else None

    def of(chunks: Tensor, residual: Tensor) -> Tensor:
        spread = segmentation.spread(chunks)
        if causal:
            return add_shown(smooth_forward(spread, segmentation, backend), residual, hidden)
        return smooth_both_ways(spread, segmentation, backend, residual, hidden)

    if torch.is_grad_enabled() or not takes_blocks(segmentation.packing, block):
        return of(chunks, residual)
    whole = torch.empty_like(residual)  # channels do not see each other, so a few at a time need less memory
    for first in range(0, residual.shape[1], _CHANNELS):
        part = slice(first, first + _CHANNELS)
        whole[:, part] = of(chunks[:, part], residual[:, part])
    return whole

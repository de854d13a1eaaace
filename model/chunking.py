"""From positions to chunks and back: gather vectors at boundaries, spread and smooth them, add gated residuals."""

import torch
from torch import Tensor

from .kernels import smooth
from .kernels import smooth_both_ways as smooth_gated
from .routing import Segmentation
from .split_operations import smooth_both_ways as smooth_split
from .split_packing import SplitPacking
from .time_blocks import takes_blocks

_CHANNELS = 32  # smoothed at a time where memory is saved


def gather_chunks(x: Tensor, segmentation: Segmentation, pooling: str = "first") -> Tensor:
    """Chunk vectors: those of each chunk's first position, or means over the chunk. x (T, D) -> (C, D)."""
    if pooling == "first":
        return x[segmentation.starts]
    sizes = segmentation.total(torch.ones_like(segmentation.chunk))
    return segmentation.total(x) / sizes.clamp_min(1).unsqueeze(-1).to(x.dtype)  # only filler chunks are empty


def smooth_both_ways(z: Tensor, segmentation: Segmentation, backend: str = "auto") -> Tensor:
    """Gated smoothing from both sides, the path by which the MLM loss reaches the router; in float32.

    f_t = g_t z_t + (1 - g_t) f_{t-1};  h_t = g_{t+1} z_t + (1 - g_{t+1}) h_{t+1};  out = (f + h) / 2.
    A gate belongs to the border between two positions and both ends of a sequence are closed with 1, so that
    reversing positions and borders reverses the result. At a position whose two borders are closed, out = z.

    Args:
        z: (T, D), chunk vectors spread to their positions.

    Returns:
        (T, D), dtype of z.
    """
    packing, gate = segmentation.packing, segmentation.gate
    with torch.autocast(z.device.type, enabled=False):
        gates = torch.stack((gate, packing.shift(gate, 1.0, back=True)))
        if isinstance(packing, SplitPacking):
            return smooth_split(z, gates, packing, backend=backend)
        return smooth_gated(z, gates, packing.cu_seqlens, backend=backend)


def smooth_forward(z: Tensor, segmentation: Segmentation, backend: str = "auto") -> Tensor:
    """f of `smooth_both_ways` alone, which does not depend on later positions. z (T, D) -> (T, D), dtype of z."""
    with torch.autocast(z.device.type, enabled=False):
        return smooth(z, segmentation.gate, segmentation.packing.cu_seqlens, backend=backend)


def gate_residual(x: Tensor, segmentation: Segmentation) -> Tensor:
    """The encoder's output, zero wherever the position's chunk holds a mask. x (T, D) -> (T, D)."""
    hidden = segmentation.spread(segmentation.chunk_holds_mask)
    return x.masked_fill(hidden.unsqueeze(-1), 0)


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
    smooth_spread = smooth_forward if causal else smooth_both_ways

    def of(chunks: Tensor, residual: Tensor) -> Tensor:
        smoothed = smooth_spread(segmentation.spread(chunks), segmentation, backend)
        return smoothed + (gate_residual(residual, segmentation) if residual_gating else residual)

    if torch.is_grad_enabled() or not takes_blocks(segmentation.packing, block):
        return of(chunks, residual)
    whole = torch.empty_like(residual)  # channels do not see each other, so a few at a time need less memory
    for first in range(0, residual.shape[1], _CHANNELS):
        part = slice(first, first + _CHANNELS)
        whole[:, part] = of(chunks[:, part], residual[:, part])
    return whole

"""The Triton scan of both directions, gated, as one differentiable torch function."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .triton_scan import carry, emit, reach, triton
from .triton_scan_backward import reach_back, retreat

LOG2_E = 1.4426950408889634


class Tiling(NamedTuple):
    """How the scan is cut into programs.

    Attributes:
        chunk: positions of a program. States are kept every so many positions for the backward pass.
        tile: positions whose states the backward pass holds in registers; divides `chunk`.
        width: channels of a program.
        ahead: chunks whose states `carry` loads together.
        warps: warps of a program.
    """

    chunk: int = 16
    tile: int = 4
    width: int = 32
    ahead: int = 16
    warps: int = 1


SHORT = 128  # positions under which large chunks would leave the card idle
SMALL = Tiling(chunk=8, tile=4, ahead=4)


class _GatedScan(Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        raw: Tensor,
        B: Tensor,
        C: Tensor,
        z: Tensor,
        A: Tensor,
        skip: Tensor,
        dt_bias: Tensor,
        step: Tensor,
        tiling: Tiling,
    ) -> Tensor:
        _, total, channels = u.shape
        states = A.shape[2]
        rate = (A.transpose(1, 2) * LOG2_E).contiguous()
        chunks, blocks = triton.cdiv(total, tiling.chunk), triton.cdiv(channels, tiling.width)
        sizes = {"N": states, "CHUNK": tiling.chunk, "WIDTH": tiling.width, "num_warps": tiling.warps}
        entering = torch.empty(chunks, 2, states, channels, dtype=torch.float32, device=u.device)
        spans = torch.empty(chunks, 2, channels, dtype=torch.float32, device=u.device)
        row = B.stride(1)
        delta = torch.empty(u.shape, dtype=torch.float32, device=u.device)
        reach[(chunks, blocks, 2)](
            u, raw, B, dt_bias, rate, step, delta, entering, spans, total, channels, row, **sizes
        )
        _carry(entering, spans, rate, step, total, tiling, back=False)
        out = torch.empty(total, channels, dtype=u.dtype, device=u.device)
        emit[(chunks, blocks)](
            u, delta, B, C, z, rate, skip, step, entering, out, total, channels, row, z.stride(0), **sizes
        )
        ctx.save_for_backward(u, raw, B, C, z, rate, skip, dt_bias, step, entering, spans)
        ctx.tiling = tiling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, raw, B, C, z, rate, skip, dt_bias, step, entering, spans = ctx.saved_tensors
        tiling: Tiling = ctx.tiling
        grad = grads[0].contiguous()
        _, total, channels = u.shape
        chunks, states = entering.shape[0], rate.shape[1]
        blocks = triton.cdiv(channels, tiling.width)
        sizes = {"N": states, "CHUNK": tiling.chunk, "WIDTH": tiling.width, "num_warps": tiling.warps}
        leaving = torch.empty_like(entering)
        delta = torch.empty(u.shape, dtype=torch.float32, device=u.device)
        row, z_row = B.stride(1), z.stride(0)
        reach_back[(chunks, blocks, 2)](
            grad, raw, C, z, dt_bias, rate, step, delta, leaving, total, channels, row, z_row, **sizes
        )
        _carry(leaving, spans, rate, step, total, tiling, back=True)
        du, draw = torch.empty_like(u), torch.empty_like(raw)
        dz = torch.empty(total, channels, dtype=z.dtype, device=z.device)
        dbc = torch.empty(blocks, 2, total, 2 * states, dtype=torch.float32, device=u.device)
        shared = torch.empty(chunks, 2, states + 2, channels, dtype=torch.float32, device=u.device)
        retreat[(chunks, blocks)](
            grad, u, delta, B, C, z, rate, skip, step, entering, leaving,
            du, draw, dbc, dz, shared,
            total, channels, row, z_row, TILE=tiling.tile, **sizes,
        )  # fmt: skip
        dB, dC = dbc.sum(0).to(B.dtype).split(states, dim=-1)
        dA, dskip, dbias = shared.sum(0).split((states, 1, 1), dim=1)
        return du, draw, dB, dC, dz, dA.transpose(1, 2), dskip.squeeze(1), dbias.squeeze(1), None, None


def _carry(ends: Tensor, spans: Tensor, rate: Tensor, step: Tensor, total: int, tiling: Tiling, *, back: bool) -> None:
    chunks, _, states, channels = ends.shape
    grid = (triton.cdiv(states * channels, tiling.width), 2)
    carry[grid](
        ends, spans, rate, step, total, channels, chunks,
        N=states, CHUNK=tiling.chunk, WIDTH=tiling.width, AHEAD=tiling.ahead, BACK=back, num_warps=1,
    )  # fmt: skip


def gated_scan(
    u: Tensor,
    raw: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor,
    A: Tensor,
    skip: Tensor,
    dt_bias: Tensor,
    step: Tensor,
    tiling: Tiling | None = None,
) -> Tensor:
    """(y_0 + y_1) * SiLU(z), y_w the selective scan of direction w (`scan_reference.selective_scan`; 1 reads backward).

    Args:
        u: (2, T, Dm), what each direction scans. raw: (2, T, Dm), delta = softplus(raw + dt_bias).
        B, C: (2, T, N), which may be slices of one (2, T, .) tensor. z: (T, Dm), which may be a slice likewise.
        A: (2, Dm, N), negative. skip: (2, Dm), Mamba's D. dt_bias: (2, Dm). Float32.
        step: (2, T) int32, `Packing.steps`.
        tiling: chosen by T where it is None.

    Returns:
        (T, Dm), dtype of u; states and sums are float32.
    """
    if not u.shape[1]:
        return (u.sum(0) + raw.sum(0)) * z
    spare = triton.next_power_of_2(A.shape[2]) - A.shape[2]  # states that stay zero
    if spare:
        A, B, C = (F.pad(x, (0, spare)) for x in (A, B, C))
    if B.stride() != C.stride() or B.stride(2) != 1 or B.stride(0) != B.shape[1] * B.stride(1):
        B, C = B.contiguous(), C.contiguous()
    z = z if z.stride(1) == 1 else z.contiguous()
    exact = (A.float(), skip.float().contiguous(), dt_bias.float().contiguous())
    tiling = tiling or (SMALL if u.shape[1] < SHORT else Tiling())
    with torch.cuda.device_of(u):  # Triton launches on the current device
        y: Tensor = _GatedScan.apply(u.contiguous(), raw.contiguous(), B, C, z, *exact, step, tiling)
    return y

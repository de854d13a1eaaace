"""The three operations in plain torch: simple, any dtype and device, differentiable. Tests compare every kernel to it.

Recurrences compute step i of all sequences at once. A shorter sequence runs on past its end; the results there are
never read, and they cannot change earlier ones.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PIECE = 64  # time steps whose exponentials are computed at once


def time_grid(cu_seqlens: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The packed position of each step of each sequence, and the inverse.

    Returns:
        grid (S, B) int64: packed position of step s of each sequence, 0 where the sequence has ended.
        step, sequence (T,) int64: the grid cell of each packed position.
    """
    lengths = cu_seqlens.diff().long()
    starts = cu_seqlens[:-1].long()
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    step = torch.arange(len(sequence), device=lengths.device) - starts[sequence]
    if reverse:
        step = lengths[sequence] - 1 - step
    longest = int(lengths.max()) if len(lengths) else 0
    grid = torch.zeros(longest, len(lengths), dtype=torch.long, device=lengths.device)
    grid[step, sequence] = torch.arange(len(sequence), device=lengths.device)
    return grid, step, sequence


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, reverse: bool
) -> Tensor:
    """Selective scan of Mamba (arXiv 2312.00752, eq. 2 with zero-order hold on A and Euler on B).

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t;  y_t = C_t h_t + D u_t, state zero before each sequence.

    Args:
        u, delta: (T, Dm), delta already positive.
        A: (Dm, N), negative. B, C: (T, N). D: (Dm,).
        cu_seqlens: (B+1,) int32, borders of the packed sequences.
        reverse: run time backwards inside each sequence.

    Returns:
        y (T, Dm), dtype of u.
    """
    grid, step, sequence = time_grid(cu_seqlens, reverse)
    if not len(u):
        return u * delta
    drive = delta * u
    state = u.new_zeros(grid.shape[1], u.shape[1], A.shape[1])
    outputs = []
    for piece in grid.split(PIECE):  # (K, B)
        decays = torch.exp(delta[piece].unsqueeze(-1) * A)  # (K, B, Dm, N)
        inputs = drive[piece].unsqueeze(-1) * B[piece].unsqueeze(-2)
        states = []
        for decay, entering in zip(decays.unbind(), inputs.unbind(), strict=True):
            state = torch.addcmul(entering, decay, state)
            states.append(state)
        outputs.append((torch.stack(states) @ C[piece].unsqueeze(-1)).squeeze(-1))  # (K, B, Dm)
    return torch.cat(outputs)[step, sequence] + D * u


def smooth(z: Tensor, gate: Tensor, cu_seqlens: Tensor, reverse: bool) -> Tensor:
    """One direction of the gated smoothing: f_t = g_t z_t + (1 - g_t) f_{t-1} (`reverse`: f_{t+1}).

    Args:
        z: (T, D). gate: (T,), 1 where a sequence begins. cu_seqlens: (B+1,) int32.

    Returns:
        f (T, D), dtype of z.
    """
    grid, step, sequence = time_grid(cu_seqlens, reverse)
    if not len(z):
        return z * gate.unsqueeze(-1)
    state = z.new_zeros(grid.shape[1], z.shape[1])
    states = []
    for piece in grid.split(PIECE):
        gates = gate[piece].unsqueeze(-1)  # (K, B, 1)
        inputs = gates * z[piece]
        for keep, entering in zip((1 - gates).unbind(), inputs.unbind(), strict=True):
            state = torch.addcmul(entering, keep, state)
            states.append(state)
    return torch.stack(states)[step, sequence]


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, reverse: bool) -> Tensor:
    """Depthwise causal convolution and SiLU: y_t = SiLU(bias + sum_k weight[:, W-1-k] x_{t-k}).

    Args:
        x: (T, Dm). weight: (Dm, W), the last column belongs to the present as in torch.conv1d. bias: (Dm,).
        reverse: look ahead, x_{t+k}, instead of back.

    Returns:
        y (T, Dm), dtype of x.
    """
    _, step, _ = time_grid(cu_seqlens, reverse)
    width = weight.shape[1]
    total = bias + weight[:, -1] * x
    for k in range(1, width):
        shifted = F.pad(x[k:], (0, 0, 0, k)) if reverse else F.pad(x[:-k], (0, 0, k, 0))
        shifted = shifted[: len(x)] if len(x) > k else torch.zeros_like(x)
        total = total + torch.where((step >= k).unsqueeze(-1), weight[:, width - 1 - k] * shifted, 0)
    return F.silu(total)

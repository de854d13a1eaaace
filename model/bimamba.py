"""The bidirectional Mamba layer of Caduceus (arXiv 2403.03234), on packed sequences.

Two Mamba-1 blocks (arXiv 2312.00752, algorithm 2), one reading forward, one backward, share their in- and
out-projections. Sharing lets both projections run once: the outer gate SiLU(z) is common, so
    out(y_f * SiLU(z)) + out(y_r * SiLU(z)) = out((y_f + y_r) * SiLU(z)).
The layers of a causal model lack the block that reads backward, 6 % of their parameters.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .cast_weights import cast_together, weights_of
from .configuration_dnachunker import DNAChunkerConfig
from .kernels import conv_silu, fused_kernels, precise, scan_backend
from .kernels_cpu_words import Letters, conv_silu_of_words, scan_words
from .linear import is_plain, linear, through
from .norms import StreamRMSNorm
from .packing import Packing
from .split_operations import selective_scan
from .split_packing import SplitPacking
from .time_blocks import TimeBlock, blocks_of, joined, pieces_of, run_block, scan_of_block, takes_blocks


class Direction(nn.Module):
    """The parts that each direction owns: convolution, input-dependent steps, state matrices, skip."""

    def __init__(self, config: DNAChunkerConfig, reverse: bool) -> None:
        super().__init__()
        inner, state, rank = config.inner_width, config.state_size, config.dt_rank
        self.reverse = reverse
        self.backend = config.scan_backend
        self.split = (rank, state, state)
        self.conv_weight = nn.Parameter(torch.empty(inner, config.conv_width))
        self.conv_bias = nn.Parameter(torch.empty(inner))
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(inner, state))
        self.D = nn.Parameter(torch.empty(inner))

    def forward(
        self,
        u: Tensor,
        packing: Packing | TimeBlock,
        entering: Tensor | None = None,
        letters: Letters | None = None,
        onto: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Any:
        """u (T, Dm) -> y (T, Dm), before the outer gate; `packing` is a Room where sequences are split.

        Of a block of time, u are the positions it reads, and the state (N, Dm) that enters it is given. Then y is that
        of the block alone, and the state that leaves it is returned too.

        With `letters`, u (K, Dm) has a row for each letter. y is then added to `onto` (T, Dm), which is multiplied by
        the letters' rows of `gate` (K, Dm), if there is one, and returned.
        """
        if letters is None:
            u = conv_silu(
                u, self.conv_weight, self.conv_bias, packing.cu_seqlens, reverse=self.reverse, backend=self.backend
            )
        else:
            words, word = letters.words(self.reverse)
            u = conv_silu_of_words(u, words, self.conv_weight, self.conv_bias)
        if isinstance(packing, TimeBlock):
            u = u[packing.inner]
        low_rank, B, C = through(self.x_proj, u).split(self.split, dim=-1)
        raw = linear(low_rank, self.dt_proj.weight)
        # outside autocast: what decides the step sizes and the decays is not rounded to bf16, nor are the states
        with torch.autocast(u.device.type, enabled=False):
            delta = F.softplus(precise(raw) + precise(self.dt_proj.bias))
            A = -torch.exp(precise(self.A_log))
            if letters is not None and onto is not None:
                return scan_words(u, delta, A, B, C, self.D, word, letters, onto, gate, reverse=self.reverse)
            if not isinstance(packing, TimeBlock):
                return selective_scan(u, delta, A, B, C, self.D, packing, reverse=self.reverse, backend=self.backend)
            assert entering is not None
            return scan_of_block(
                u, delta, A, B, C, self.D, packing, entering, reverse=self.reverse, backend=self.backend
            )


class _Projections(Function):
    """The products that read the convolutions' output of both directions, with two sums less in the backward pass.

    Takes read (2, T, Dm), x_proj's weights (2, R + 2 N, Dm), dt_proj's weights (2, Dm, R) and (R, N, N). Returns read
    itself, for the scan alone, so that the product adds its gradient from here to the one from there, in place; step
    sizes before softplus (2, T, Dm); B and C (2, T, N) float32, slices of one tensor. The scan reads B and C again for
    every 64 channels; widening them there took longer.
    """

    @staticmethod
    def forward(
        ctx: Any, read: Tensor, rows: Tensor, steps: Tensor, split: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rank, *states = split
        found = torch.bmm(read, rows.transpose(1, 2))
        low_rank, (B, C) = found[..., :rank], found[..., rank:].float().split(states, dim=-1)
        ctx.save_for_backward(read, rows, steps, low_rank)
        return read.view_as(read), torch.bmm(low_rank, steps.transpose(1, 2)), B, C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        read, rows, steps, low_rank = ctx.saved_tensors
        dread, draw, dB, dC = grads
        drows = read.new_empty(2, read.shape[1], rows.shape[1])
        of_low_rank, of_B, of_C = drows.split((steps.shape[2], dB.shape[2], dC.shape[2]), dim=-1)
        torch.bmm(draw, steps, out=of_low_rank)
        of_B.copy_(dB)
        of_C.copy_(dC)
        dsteps, weights = torch.bmm(draw.transpose(1, 2), low_rank), torch.bmm(drows.transpose(1, 2), read)
        return dread.baddbmm_(drows, rows), weights, dsteps, None


class _InProjection(Function):
    """u and z, the halves (T, Dm) of the product of x (T, D) with a weight (2 Dm, D).

    In the backward pass, the products take the gradients of the halves as they are: no launch puts them together.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        u, z = F.linear(x, weight).chunk(2, dim=-1)
        return u, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (du, dz), (of_u, of_z) = grads, weight.chunk(2)
        dx = (du @ of_u).addmm_(dz, of_z) if ctx.needs_input_grad[0] else None
        if x is None:
            return dx, None
        dweight = torch.empty_like(weight)
        for half, grad in zip(dweight.chunk(2), grads, strict=True):
            torch.mm(grad.t(), x, out=half)
        return dx, dweight


class BiMambaLayer(GradientCheckpointingLayer):
    """x + mixer(norm(x)); 2,803,840 parameters at width 640, norm included."""

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__()
        self.backend = config.scan_backend
        self.halo, self.states = config.conv_width - 1, config.state_size  # what stretches need of their neighbours
        self.block = config.layer_block
        self.norm = StreamRMSNorm(config.width, config.norm_eps, config.scan_backend)
        self.in_proj = nn.Linear(config.width, 2 * config.inner_width, bias=False)
        self.forward_direction = Direction(config, reverse=False)
        self.backward_direction = None if config.causal else Direction(config, reverse=True)
        self.out_proj = nn.Linear(config.inner_width, config.width, bias=False)

    def forward(
        self, x: Tensor, packing: Packing, letters: Letters | None = None, branch: Tensor | None = None, *,
        leaves_branch: bool = False,
    ) -> Any:  # fmt: skip
        """x (T, D) -> (T, D). With `letters`, x holds embeddings of these letters.

        A `branch` (T, D) is what the layer before left to be added to x. With `leaves_branch` the result is a pair, the
        sum without its last branch, and that branch; None if it is added already. The next layer's norm then
        adds the branch, in the launch that normalises the sum.
        """
        whole = not (isinstance(packing, SplitPacking) or takes_blocks(packing, self.block))
        if letters is None and whole and self._fused(x):
            x, normed = self.norm(x, branch)
            own = self._both_directions_at_once(normed, packing)[0]
            return (x, own) if leaves_branch else x + own
        found = self._whole(x if branch is None else x + branch, packing, letters)
        return (found, None) if leaves_branch else found

    def _whole(self, x: Tensor, packing: Packing, letters: Letters | None) -> Tensor:
        if letters is not None:
            return x + through(self.out_proj, self._of_letters(x[letters.place], packing, letters))
        if takes_blocks(packing, self.block):
            return self._block_by_block(x, blocks_of(packing, self.block, self.halo))
        x, normed = self.norm(x)
        u, z = through(self.in_proj, normed).chunk(2, dim=-1)
        if isinstance(packing, SplitPacking):
            room = packing.room(max(self.halo, self.states))
            y = self._directions(room.fill_with_neighbours(u, self.halo), room).index_select(0, room.inner)
        else:
            y = self._directions(u.contiguous(), packing)
        return x + through(self.out_proj, y * F.silu(z))

    def _directions(self, u: Tensor, packing: Packing) -> Tensor:
        y: Tensor = self.forward_direction(u, packing)
        return y if self.backward_direction is None else y + self.backward_direction(u, packing)

    def _of_letters(self, x: Tensor, packing: Packing, letters: Letters) -> Tensor:
        """(y_f + y_r) * SiLU(z), from embeddings of the letters (kernels_cpu_words.py). x (K, D) -> (T, Dm)."""
        u, z = through(self.in_proj, self.norm(x)[1]).chunk(2, dim=-1)
        y = x.new_zeros(len(letters.number), u.shape[1])
        *others, last = [way for way in (self.forward_direction, self.backward_direction) if way is not None]
        for way in others:
            y = way(u, packing, letters=letters, onto=y)
        return last(u, packing, letters=letters, onto=y, gate=F.silu(z))  # type: ignore[no-any-return]

    def _fused(self, u: Tensor) -> bool:
        return scan_backend(self.backend, u.device.type, u.dtype) == "triton"

    def _block_by_block(self, x: Tensor, blocks: Sequence[TimeBlock]) -> Tensor:
        """x (T, D) -> (T, D).

        The direction that reads backward needs the state from the blocks after a block. So a first walk, from the last
        block, computes these states alone; the second walk computes everything else.
        """
        exact = torch.promote_types(x.dtype, torch.float32)
        pieces, nothing = pieces_of(x, blocks), x.new_zeros(self.states, self.out_proj.in_features, dtype=exact)
        from_after = [nothing]
        if self.backward_direction is not None:
            for piece, block in zip(pieces[:0:-1], blocks[:0:-1], strict=True):
                from_after.append(run_block(self._state_before, piece, block, from_after[-1]))
        else:
            from_after *= len(blocks)

        def parts() -> Iterator[Tensor]:
            from_before = nothing
            for piece, block, after in zip(pieces, blocks, reversed(from_after), strict=True):
                part, from_before = run_block(self._block, piece, block, from_before, after)
                yield part

        return joined(parts(), blocks, x)

    def _block(self, x: Tensor, block: TimeBlock, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's output for a block, and the state (N, Dm) after it; x (R, D) is what it reads."""
        x, normed = self.norm(x)
        if self._fused(x):
            branch, leaving = self._both_directions_at_once(normed, block, torch.stack((before, after)))
            return x[block.inner] + branch, leaving[0]
        u, z = through(self.in_proj, normed).chunk(2, dim=-1)
        x, z, u = x[block.inner], z[block.inner], u.contiguous()
        y, leaving = self.forward_direction(u, block, before)
        if self.backward_direction is not None:
            y = y + self.backward_direction(u, block, after)[0]
        return x + through(self.out_proj, y * F.silu(z)), leaving

    def _state_before(self, x: Tensor, block: TimeBlock, after: Tensor) -> Tensor:
        """The state (N, Dm) in which the backward direction leaves a block; x (R, D) is what it reads."""
        _, normed = self.norm(x)
        state: Tensor
        if self._fused(x):
            entering = torch.stack((torch.zeros_like(after), after))
            state = self._both_directions_at_once(normed, block, entering, leave=False)[1][1]
        else:
            assert self.backward_direction is not None
            u, _ = through(self.in_proj, normed).chunk(2, dim=-1)
            state = self.backward_direction(u.contiguous(), block, after)[1]
        return state

    def _both_directions_at_once(
        self, x: Tensor, packing: Packing | TimeBlock, entering: Tensor | None = None, *, leave: bool = True
    ) -> tuple[Tensor, Any]:
        """out((y_f + y_r) * SiLU(z)) of the norm x (T, D), with each kernel launched once for the two directions.

        Of a block of time, x are the positions it reads; the states (2, N, Dm) that enter it are given, and those that
        leave it are returned too, else None. Without `leave`, the out-projection is left out.
        The parameters below are used outside the modules that own them; under ZeRO-3 they are gathered for the layer.
        The kernels always read both ways; a causal layer multiplies the backward result by zero.
        """
        both = (self.forward_direction, self.backward_direction or self.forward_direction)
        kernels, split = fused_kernels(), both[0].split
        conv_rows, scan_rows = kernels.parameter_rows(
            *zip(*((way.conv_weight, way.conv_bias, way.A_log, way.D, way.dt_proj.bias) for way in both), strict=True)
        )
        inner = [*(way.x_proj for way in both), *(way.dt_proj for way in both)]
        outer = [self.in_proj, self.out_proj] if is_plain(self.in_proj) and is_plain(self.out_proj) else []
        weights = cast_together(weights_of([*inner, *outer]))
        rows, steps, (enter, out) = torch.stack(weights[:2]), torch.stack(weights[2:4]), weights[4:] or (None, None)
        u, z = through(self.in_proj, x).chunk(2, dim=-1) if enter is None else _InProjection.apply(x, enter)
        at = packing.steps
        read = kernels.conv_silu_both_ways(u, conv_rows, at)  # (2, T, Dm)
        if isinstance(packing, TimeBlock):
            read, at, z = read[:, packing.inner], at[:, packing.inner], z[packing.inner]
        read, raw, B, C = _Projections.apply(read, rows, steps, split)
        if self.backward_direction is None:
            C = C * C.new_tensor([1, 0])[:, None, None]
            skip = scan_rows.shape[0] - 3  # the row of the backward direction's D
            scan_rows = scan_rows.index_fill(0, torch.tensor(skip, device=C.device), 0.0)
        leaving = None
        if entering is None:
            y = kernels.gated_scan(read, raw, B, C, z, scan_rows, at)
        else:
            y, leaving = kernels.gated_scan_of_block(read, raw, B, C, z, scan_rows, at, entering)
        if leave:
            y = through(self.out_proj, y) if out is None else F.linear(y, out)
        return y, leaving

"""The causal model one token at a time: the memory of each part, and the step that uses it.

In encoders and decoders, neither memory nor the cost of a step grows with the sequence. Only the trunk looks back at
everything: it keeps one key and one value for every chunk it has read.

Layers are typed Any here, because torch types every attribute of a module as a tensor or a module.

A router decides from a token and the token before it whether a chunk starts, so the sequences of a batch start chunks
at different steps: the layers of a stage step only in those rows of the batch where the previous stage starts a chunk.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import rotary_angles
from .hierarchy import Hierarchy
from .linear import linear

_FIRST_CACHE = 64  # chunks per sequence that the cache holds at first; doubled when full


class _MambaMemory:
    """The last inputs of a layer's convolution, (B, W-1, Dm), and the state of its scan, (B, Dm, N)."""

    def __init__(self, layer: Any, count: int) -> None:
        self._layer = layer
        way = layer.forward_direction
        inner, width = way.conv_weight.shape
        self.inputs = way.conv_weight.new_zeros(count, width - 1, inner)
        self.state = torch.zeros(count, *way.A_log.shape, dtype=_precise(way.A_log), device=way.A_log.device)

    def step(self, x: Tensor, rows: Tensor) -> Tensor:
        """The layer at the next position of `rows`. x (R, D) -> (R, D)."""
        layer, way = self._layer, self._layer.forward_direction
        u, z = layer.in_proj(layer.norm(x)[1]).chunk(2, dim=-1)
        seen = torch.cat((self.inputs[rows], u.unsqueeze(1)), dim=1)  # (R, W, Dm)
        self.inputs[rows] = seen[:, 1:]
        u = F.silu(way.conv_bias + (seen * way.conv_weight.t()).sum(1))
        low_rank, B, C = way.x_proj(u).split(way.split, dim=-1)
        exact = self.state.dtype
        delta = F.softplus(way.dt_proj(low_rank).to(exact)).unsqueeze(-1)
        decay = torch.exp(-delta * torch.exp(way.A_log.to(exact)))
        state = decay * self.state[rows] + delta * u.to(exact).unsqueeze(-1) * B.to(exact).unsqueeze(1)
        self.state[rows] = state
        y = (state @ C.to(exact).unsqueeze(-1)).squeeze(-1) + way.D * u
        return x + layer.out_proj(y.to(x.dtype) * F.silu(z))


class _StageMemory:
    """A stage's layers; and (B, D) each: the router's last key, the current chunk's vector, the smoothed vector."""

    def __init__(self, encoder: Any, router: Any, decoder: Any, count: int) -> None:
        self.encoder = [_MambaMemory(layer, count) for layer in encoder.layers]
        self.decoder = [_MambaMemory(layer, count) for layer in decoder.layers]
        self._projections = router.probability
        query = router.probability.query
        self.key, self.chunk, self.smoothed = (
            torch.zeros(count, len(query), dtype=_precise(query), device=query.device) for _ in range(3)
        )

    def gate(self, x: Tensor, rows: Tensor) -> Tensor:
        """The probability that a chunk starts at the next position of `rows`. x (R, D) -> (R,)."""
        x = x.to(self.key.dtype)
        query, key = (linear(x, weight.to(x.dtype)) for weight in (self._projections.query, self._projections.key))
        similarity = F.cosine_similarity(query, self.key[rows], dim=-1)
        self.key[rows] = key
        return ((1 - similarity) / 2).clamp(0, 1)

    def smooth(self, gate: Tensor, rows: Tensor) -> Tensor:
        """The smoothed chunk vector at the next position of `rows`. gate (R,) -> (R, D)."""
        gate = gate.unsqueeze(-1)
        self.smoothed[rows] = gate * self.chunk[rows] + (1 - gate) * self.smoothed[rows]
        return self.smoothed[rows]


class _TrunkMemory:
    """Keys and values of the chunks so far: per layer (2, B, slots, H, D/H); of the slots, `length` (B,) are in use."""

    def __init__(self, trunk: Any, count: int) -> None:
        self._trunk = trunk
        like = trunk.norm.weight
        heads = trunk.layers[0].heads if trunk.layers else 1
        self.cache = [like.new_zeros(2, count, _FIRST_CACHE, heads, trunk.head_width) for _ in trunk.layers]
        self.length = torch.zeros(count, dtype=torch.long, device=like.device)

    def step(self, x: Tensor, rows: Tensor, position: int) -> Tensor:
        """The trunk at a chunk that starts at base `position`, in `rows`. x (R, D) -> (R, D)."""
        positions = torch.full_like(rows, position)
        cos, sin = rotary_angles(positions, self._trunk.head_width, self._trunk.theta)
        place = self.length[rows]
        self.length[rows] = place + 1
        longest = int(place.max()) + 1
        if self.cache and longest > self.cache[0].shape[2]:
            self.cache = [torch.cat((kept, torch.zeros_like(kept)), dim=2) for kept in self.cache]
        earlier = torch.arange(longest, device=rows.device) <= place.unsqueeze(-1)  # (R, slots)
        for layer, kept in zip(self._trunk.layers, self.cache, strict=True):
            x = _trunk_layer_step(layer, x, kept, rows, place, earlier, cos, sin)
        normed: Tensor = self._trunk.norm(x)
        return normed


def _trunk_layer_step(
    layer: Any, x: Tensor, kept: Tensor, rows: Tensor, place: Tensor, earlier: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    q, k, v = layer.placed(layer.qkv(layer.attention_norm(x)[1]), cos, sin)
    kept[0, rows, place], kept[1, rows, place] = k, v
    keys, values = kept[:, rows, : earlier.shape[1]].transpose(2, 3)  # (R, H, slots, D/H)
    attended = F.scaled_dot_product_attention(q.unsqueeze(2), keys, values, attn_mask=earlier[:, None, None])
    x = x + layer.attention_out(attended.flatten(1))
    return x + layer.mlp_out(F.gelu(layer.mlp_in(layer.mlp_norm(x)[1])))


class Recurrence:
    """A batch of sequences of equal length that grow by a token a step."""

    def __init__(self, embedding: nn.Module, hierarchy: Hierarchy, norm: nn.Module, head: nn.Module, count: int):
        self._embedding, self._norm, self._head = embedding, norm, head
        parts = zip(hierarchy.encoders, hierarchy.routers, hierarchy.decoders, strict=True)
        self._stages = [_StageMemory(*stage, count) for stage in parts]
        self._trunk = _TrunkMemory(hierarchy.trunk, count)
        self._every = torch.arange(count, device=self._trunk.length.device)
        self.tokens = 0  # read so far

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:
        """Read a token of each sequence. ids (B,) int64 -> logits of the next one (B, V), float32 at least."""
        x, rows = self._embedding(ids), self._every
        passed = []
        for stage in self._stages:
            for layer in stage.encoder:
                x = layer.step(x, rows)
            gate = stage.gate(x, rows)
            if not self.tokens:  # the first token has no earlier one to compare with
                gate = torch.ones_like(gate)
            starts = gate >= 0.5
            passed.append((x, rows, gate, rows[starts]))
            x, rows = x[starts], rows[starts]
        if len(rows):
            x = self._trunk.step(x, rows, self.tokens)
        for stage, (residual, rows, gate, started) in zip(reversed(self._stages), reversed(passed), strict=True):
            stage.chunk[started] = x.to(stage.chunk.dtype)
            x = stage.smooth(gate, rows).to(residual.dtype) + residual
            for layer in stage.decoder:
                x = layer.step(x, rows)
        self.tokens += 1
        logits: Tensor = self._head(self._norm(x))
        return logits.to(_precise(logits))

    def memory(self) -> tuple[int, int]:
        """How many numbers are kept: those of fixed size, and the trunk's keys and values."""
        fixed = 0
        for stage in self._stages:
            fixed += stage.key.numel() + stage.chunk.numel() + stage.smoothed.numel()
            fixed += sum(layer.inputs.numel() + layer.state.numel() for layer in (*stage.encoder, *stage.decoder))
        return fixed, sum(kept.numel() for kept in self._trunk.cache)


def _precise(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32

"""The trunk: pre-norm Transformer blocks on packed chunks, rotary positions in bases."""

import importlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .cast_weights import products
from .configuration_dnachunker import DNAChunkerConfig
from .kernels import attention_backend, compiled, compiles, fused_kernels, precise, scan_backend
from .norms import StreamLayerNorm
from .packing import Packing
from .split_packing import SplitPacking


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, backend: str = "auto", *, causal: bool = False
) -> Tensor:
    """Attention inside each packed sequence: to all its positions, or with `causal` to none that come later.

    No backend sees a pad, so none needs a mask: SDPA runs once per distinct length, on the sequences of that length.
    Where sequences are split over P ranks that divide the heads, each rank attends for H/P heads, to and from all
    positions. Otherwise a rank attends from its own positions to the whole sequences, whose keys and values it gathers;
    then `causal` is not supported.

    Args:
        q, k, v: (T, H, D/H).

    Returns:
        (T, H, D/H), dtype of q.
    """
    seen = packing  # the sequences of the keys
    if isinstance(packing, SplitPacking) and q.shape[1] % packing.ranks == 0:
        q, k, v = packing.to_heads(torch.stack((q, k, v), dim=1)).unbind(1)
        return packing.from_heads(packed_attention(q, k, v, packing.whole, backend, causal=causal))
    if isinstance(packing, SplitPacking):
        seen = packing.whole
        k, v = packing.gather_whole(torch.stack((k, v), dim=1)).unbind(1)
    if not len(q):
        return q + v[:0] + k[:0]  # the gathered values are part of the graph on every rank
    choice = attention_backend(backend, q.device.type, q.dtype)
    borders, longest = (packing.cu_seqlens, seen.cu_seqlens), (packing.max_length, seen.max_length)
    if choice == "flash_attn":
        flash = importlib.import_module("flash_attn").flash_attn_varlen_func
        flash_out: Tensor = flash(q, k, v, *borders, *longest, causal=causal)
        return flash_out
    if choice in ("flash_attn_3", "torch_varlen"):
        width = q.shape[-1]
        if width % 8:  # these kernels take multiples of 8 only
            q, k, v = (F.pad(x, (0, -width % 8)) for x in (q, k, v))
        scale = width**-0.5
        if choice == "flash_attn_3":
            flash = importlib.import_module("flash_attn_interface").flash_attn_varlen_func
            found = flash(q, k, v, *borders, *longest, softmax_scale=scale, causal=causal)
            varlen_out: Tensor = found[0] if isinstance(found, tuple) else found  # some releases add the log-sum-exp
        else:
            varlen = importlib.import_module("torch.nn.attention.varlen").varlen_attn
            window = (-1, 0 if causal else -1)  # how far back and ahead; -1 is without limit
            varlen_out = varlen(q, k, v, *borders, *longest, scale=scale, window_size=window)
        return varlen_out[..., :width]
    own, others = packing.lengths.tolist(), seen.lengths.tolist()
    lengths = list(zip(own, others, strict=True))
    # one autograd node; slicing would make B of them
    pieces = [x.split(sizes) for x, sizes in ((q, own), (k, others), (v, others))]
    outputs: list[Tensor] = [q[:0]] * len(lengths)
    for length in sorted({both for both in lengths if both[0]}):
        group = [s for s, both in enumerate(lengths) if both == length]
        gq, gk, gv = (torch.stack([piece[s] for s in group]).transpose(1, 2) for piece in pieces)  # (G, H, L, D/H)
        attended = F.scaled_dot_product_attention(gq, gk, gv, is_causal=causal).transpose(1, 2)
        for s, result in zip(group, attended.unbind(), strict=True):
            outputs[s] = result
    return torch.cat(outputs)


def rotary_angles(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (arXiv 2104.09864) at integer positions (T,) -> two (T, 1, D/H / 2), float32."""
    exponent = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
    angles = positions.float().unsqueeze(-1) * theta**-exponent
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + D/2H}) of each head by their angles, in float32. x (T, H, D/H) -> same."""
    first, second = precise(x).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def feed_forward(x: Tensor, norm: Tensor, enter: Tensor, leave: Tensor, eps: float) -> Tensor:
    """x + MLP(norm(x)) as a function of its weights, for torch.compile. x (T, D) -> (T, D)."""
    hidden = F.gelu(F.linear(F.layer_norm(x, (x.shape[-1],), norm, None, eps), enter))
    return x + F.linear(hidden, leave)


class HeadNorm(nn.RMSNorm):
    """RMSNorm over the channels of each head, in float32 under any precision. x (T, H, D/H) -> same."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(precise(x), self.normalized_shape, precise(self.weight), self.eps).to(x.dtype)


class TrunkLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + MLP(norm(x)); bias-free, GELU."""

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.heads = config.num_heads
        self.config, self.causal = config, config.causal
        self.attention_norm = StreamLayerNorm(width, config.norm_eps, config.scan_backend)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm, self.key_norm = (
            HeadNorm(width // config.num_heads, eps=config.norm_eps) if config.qk_norm else None for _ in range(2)
        )
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = StreamLayerNorm(width, config.norm_eps, config.scan_backend)
        self.mlp_in = nn.Linear(width, hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, width, bias=False)
        self.compile_mlp = config.compile_trunk

    def forward(
        self, x: Tensor, branch: Tensor | None, packing: Packing, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """x (T, D) without its last branch (T, D), and that branch; angles from `rotary_angles` -> the same two.

        So the norm of the next layer adds the branch, in the launch that normalises the sum.
        """
        device, layers = x.device.type, [self.qkv, self.attention_out, self.mlp_in, self.mlp_out]
        compiles_mlp = compiles(self.compile_mlp, device)
        qkv, attention_out, *mlp = products(device, *(layers[:2] if compiles_mlp else layers))
        x, normed = self.attention_norm(x, branch)
        q, k, v = self.placed(qkv(normed), cos, sin)
        attended = packed_attention(q, k, v, packing, self.config.trunk_attention, causal=self.causal)
        branch = attention_out(attended.flatten(1))
        if compiles_mlp:
            weights = self.mlp_norm.weight, self.mlp_in.weight, self.mlp_out.weight
            return compiled(feed_forward)(x + branch, *weights, self.mlp_norm.eps), None
        x, normed = self.mlp_norm(x, branch)
        mlp_in, mlp_out = mlp
        return x, mlp_out(F.gelu(mlp_in(normed)))

    def placed(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (T, H, D/H) from their projection (T, 3 D), which may be overwritten.

        Queries and keys are turned by their positions' angles, then normalised if `qk_norm` is set.
        """
        if scan_backend(self.config.scan_backend, qkv.device.type, qkv.dtype) == "triton":
            q, k, v = fused_kernels().rotated(qkv, cos, sin, self.heads)
        else:
            q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(1)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.query_norm is None or self.key_norm is None:
            return q, k, v
        return self.query_norm(q), self.key_norm(k), v


class Trunk(nn.Module):
    """The main network over chunks. A forward hook here may replace the trunk's output, for leakage diagnostics."""

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.num_heads
        self.theta = config.rope_theta
        self.layers = nn.ModuleList(TrunkLayer(config) for _ in range(config.trunk_layers))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=False)

    def forward(self, x: Tensor, packing: Packing, positions: Tensor) -> Tensor:
        """x (T, D) chunk vectors, positions (T,) int64, the base index of each chunk -> (T, D)."""
        split = packing if isinstance(packing, SplitPacking) else None
        if split is not None:  # ranks with more chunks than others would keep these waiting in every layer
            x, positions, packing = split.move(x, split.even), split.move(positions, split.even), split.even
        cos, sin = rotary_angles(positions, self.head_width, self.theta)
        branch: Tensor | None = None
        for layer in self.layers:
            x, branch = layer(x, branch, packing, cos, sin)
            if branch is not None and (layer is self.layers[-1] or (layer.gradient_checkpointing and layer.training)):
                x, branch = x + branch, None  # checkpointing keeps what a layer takes: one tensor is less than two
        normed: Tensor = self.norm(x)
        return normed if split is None else split.even.move(normed, split)

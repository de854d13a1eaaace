"""The layers of encoders and decoders: BiMamba, or one of two others of the same size for comparison.

All take packed positions without pads. The hidden width of the other two follows from the parameters of a BiMamba
layer (`cost.py`), so that mixers are compared at equal size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import rotary_angles, rotate
from .bimamba import BiMambaLayer
from .configuration_dnachunker import DNAChunkerConfig
from .cost import CONV_DILATIONS, CONV_KERNEL, matched_hidden_width
from .linear import through
from .packing import Packing


class LocalAttentionLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)) over positions at most `local_window` away, then x + MLP(norm(x)); bias-free, GELU."""

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__()
        width, hidden = config.width, matched_hidden_width(config)
        self.heads, self.theta, self.window = config.num_heads, config.rope_theta, config.local_window
        self.attention_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.mlp_in = nn.Linear(width, hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """x (T, D) -> (T, D)."""
        qkv = through(self.qkv, self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.unbind(1)
        cos, sin = rotary_angles(packing.offset, q.shape[-1], self.theta)
        attended = local_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, packing, self.window)
        x = x + through(self.attention_out, attended.flatten(1))
        return x + through(self.mlp_out, F.gelu(through(self.mlp_in, self.mlp_norm(x))))


def local_attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing, window: int) -> Tensor:
    """Attention inside each packed sequence over positions at most `window` away, in time linear in T.

    Each sequence is laid out in blocks of `window` positions; a block's queries see the keys of their own block and of
    the two beside it, with a boolean mask for the distance, the borders of sequences and filler.

    Args:
        q, k, v: (T, H, D/H).

    Returns:
        (T, H, D/H), dtype of q.
    """
    if not packing.total:
        return q
    blocks = (packing.lengths + window - 1) // window
    first_block = blocks.cumsum(0) - blocks
    # an empty block before and after all others, so that every block has two neighbours
    count = int(blocks.sum()) + 2
    place = (1 + first_block[packing.sequence]) * window + packing.offset  # (T,) in the padded layout
    owner = torch.full((count * window,), -1, device=q.device)
    owner[place] = packing.sequence

    def lay_out(values: Tensor) -> Tensor:
        laid = values.new_zeros(count * window, *values.shape[1:])
        return laid.index_copy(0, place, values).unflatten(0, (count, window))

    def with_neighbours(laid: Tensor) -> Tensor:
        return torch.cat((laid[:-2], laid[1:-1], laid[2:]), dim=1)  # (blocks, 3 * window, ...)

    query, (key, value) = lay_out(q)[1:-1], (with_neighbours(lay_out(x)) for x in (k, v))
    owners = owner.unflatten(0, (count, window))
    mine, theirs = owners[1:-1].unsqueeze(2), with_neighbours(owners).unsqueeze(1)
    here = torch.arange(window, device=q.device)
    distance = torch.arange(-window, 2 * window, device=q.device) - here.unsqueeze(1)
    # filler sees filler: its results are never read, and a row without any key would be NaN
    allowed = (mine == theirs) & (distance.abs() <= window)
    attended = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=allowed.unsqueeze(1)
    )
    return attended.transpose(1, 2).flatten(0, 1)[place - window]


class ConvolutionLayer(GradientCheckpointingLayer):
    """x + out(conv(u) * SiLU(z)), u and z from norm(x): BiMamba's frame around two dilated depthwise convolutions."""

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__()
        hidden = matched_hidden_width(config)
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.in_proj = nn.Linear(config.width, 2 * hidden, bias=False)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(hidden, hidden, CONV_KERNEL, dilation=dilation, padding="same", groups=hidden)
            for dilation in CONV_DILATIONS
        )
        self.out_proj = nn.Linear(hidden, config.width, bias=False)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """x (T, D) -> (T, D)."""
        u, z = through(self.in_proj, self.norm(x)).chunk(2, dim=-1)
        for convolution, dilation in zip(self.convolutions, CONV_DILATIONS, strict=True):
            # zeros between the sequences, as many as a filter reaches, keep them apart
            gap = (CONV_KERNEL - 1) // 2 * dilation
            place = packing.sequence * gap + torch.arange(packing.total, device=x.device)
            line = u.new_zeros(packing.total + len(packing.lengths) * gap, u.shape[1]).index_copy(0, place, u)
            u = F.silu(convolution(line.t().unsqueeze(0))[0].t()[place])
        return x + through(self.out_proj, u * F.silu(z))


MIXERS = {"bimamba": BiMambaLayer, "transformer": LocalAttentionLayer, "conv": ConvolutionLayer}

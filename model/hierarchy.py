"""Encoders, routers, trunk and decoders put together: the pass down to chunks of chunks and back up to bases.

stage 0: encode -> route -> chunks;  stage 1: encode -> route -> chunks;  trunk;
stage 1: spread, smooth, add the gated residual, decode;  stage 0: likewise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Trunk
from .chunking import gather_chunks, spread_chunks
from .configuration_dnachunker import DNAChunkerConfig
from .kernels import scan_backend
from .kernels_cpu_loops import CONV_WIDTH
from .kernels_cpu_words import Letters
from .mixers import MIXERS
from .packing import Packing
from .routing import Router, Segmentation
from .split_packing import SplitPacking
from .time_blocks import takes_blocks


class Stack(nn.Module):
    """Layers of one encoder or decoder."""

    def __init__(self, config: DNAChunkerConfig, count: int) -> None:
        super().__init__()
        self.mixer = config.mixer
        self.layers = nn.ModuleList(MIXERS[config.mixer](config) for _ in range(count))

    def forward(self, x: Tensor, packing: Packing, letters: Letters | None = None) -> Tensor:
        """x (T, D) -> (T, D). With `letters`, x holds embeddings of these letters (see `Hierarchy.reads_letters`)."""
        branch: Tensor | None = None
        for layer in self.layers:
            if self.mixer != "bimamba":
                x = layer(x, packing)
            elif layer is self.layers[-1] or (layer.gradient_checkpointing and layer.training):
                # checkpointing keeps what a layer takes: one tensor is less than two
                x, branch = layer(x, packing, letters, branch), None
            else:
                x, branch = layer(x, packing, letters, branch, leaves_branch=True)
            letters = None
        return x


@dataclass(frozen=True)
class HierarchyOutput:
    """The result of a pass.

    Attributes:
        hidden: (T, D), a vector per base.
        stages: one Segmentation per stage, outermost first; stage s+1 cuts the chunks of stage s.
        levels: (encoder 0, encoder 1, ..., trunk, ..., decoder 1, decoder 0), each (T, D): chunk vectors are
            spread to their bases. Empty unless asked for.
    """

    hidden: Tensor
    stages: tuple[Segmentation, ...]
    levels: tuple[Tensor, ...]


def spread_to_bases(values: Tensor, stages: Sequence[Segmentation]) -> Tensor:
    """The value of the chunk of the last stage that each base lies in: (C, ...) -> (T, ...)."""
    for stage in reversed(stages):
        values = stage.spread(values)
    return values


def start_bases(stages: Sequence[Segmentation]) -> Tensor:
    """(C,) int64: the first base of each chunk of the last stage, as an index in its sequence."""
    starts = stages[0].packing.offset
    for stage in stages:
        starts = starts[stage.starts]
    return starts


def centre_bases(stages: Sequence[Segmentation]) -> Tensor:
    """(C,) int64: the middle base (the left one of two) of each chunk of the last stage, an index in its sequence."""
    starts = start_bases(stages)
    chunks = stages[-1].chunks
    following = chunks.shift(starts, 0, back=True)
    lengths = stages[0].packing.whole_lengths
    stops = torch.where(chunks.last, lengths[chunks.sequence.clamp_max(len(lengths) - 1)], following)
    return (starts + stops - 1) // 2


class Hierarchy(nn.Module):
    """The network between embedding and head. A forward hook on `trunk` sees its whole output and may replace it.

    Attributes:
        ends_at_trunk: set by a user of boundaries or of the trunk's vectors alone: nothing is spread and decoded, and
            `hidden` is then what encoder 0 gives.
    """

    ends_at_trunk = False

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__()
        self.config = config
        self.pooling = config.chunk_pooling
        self.residual_gating = config.residual_gating
        self.causal = config.causal
        self.backend, self.block = config.scan_backend, config.layer_block
        self.encoders = nn.ModuleList(Stack(config, count) for count in config.encoder_layers)
        self.routers = nn.ModuleList(Router(config, stage) for stage in range(config.stages))
        self.trunk = Trunk(config)
        self.decoders = nn.ModuleList(Stack(config, count) for count in config.decoder_layers)

    def reads_letters(self, x: Tensor, packing: Packing) -> bool:
        """Whether the first layer can go by letters: BiMamba on a CPU, where no gradients are asked for."""
        config = self.config
        plain = x.dtype == torch.float32 and not (torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type))
        fits = config.mixer == "bimamba" and config.encoder_layers[0] > 0 and config.conv_width == CONV_WIDTH
        if not (plain and fits and len(x)) or isinstance(packing, SplitPacking) or takes_blocks(packing, self.block):
            return False
        return scan_backend(self.backend, x.device.type, x.dtype) == "cpu"

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        masked: Tensor,
        given: Sequence[Tensor] | None = None,
        keep_levels: bool = False,
        chunk_capacity: Sequence[float] | None = None,
        letters: Letters | None = None,
    ) -> HierarchyOutput:
        """Run the whole hierarchy.

        Args:
            x: (T, D) embedded bases. masked: (T,) bool, [MASK] positions.
            given: per stage (T,) bool, a value per base: boundaries to use in place of the routers' own. At stage
                s > 0, a chunk of stage s-1 starts a new chunk if its first base is marked.
            keep_levels: return the hidden states of every level.
            chunk_capacity: as `DNAChunkerModel.forward`.
            letters: of which x holds the embeddings; only if `reads_letters`.
        """
        stages: list[Segmentation] = []
        residuals: list[Tensor] = []
        levels: list[Tensor] = []
        holds_mask = masked
        bases = packing.total
        first_base = torch.arange(packing.total, device=x.device)  # packed index of each element's first base
        for index, (encoder, router) in enumerate(zip(self.encoders, self.routers, strict=True)):
            x = encoder(x, packing, letters)
            letters = None
            if keep_levels:
                levels.append(spread_to_bases(x, stages))
            capacity = None if chunk_capacity is None else math.ceil(chunk_capacity[index] * bases)
            cut = router(x, packing, holds_mask, None if given is None else given[index][first_base], capacity)
            stages.append(cut)
            residual, x = gather_chunks(x, cut, self.pooling)
            residuals.append(residual)
            packing, holds_mask, first_base = cut.chunks, cut.chunk_holds_mask, first_base[cut.starts]
        # a causal model does not know a chunk's end, hence its centre, when the chunk starts
        x = self.trunk(x, packing, start_bases(stages) if self.causal else centre_bases(stages))
        if keep_levels:
            levels.append(spread_to_bases(x, stages))
        if self.ends_at_trunk:
            return HierarchyOutput(residuals[0], tuple(stages), tuple(levels))
        for index in reversed(range(len(stages))):
            cut = stages[index]
            x = spread_chunks(
                x, residuals.pop(), cut,
                residual_gating=self.residual_gating, causal=self.causal, backend=self.backend, block=self.block,
            )  # fmt: skip
            x = self.decoders[index](x, cut.packing)
            if keep_levels:
                levels.append(spread_to_bases(x, stages[:index]))
        return HierarchyOutput(x, tuple(stages), tuple(levels))

"""Where chunks start: the router of H-Net (arXiv 2507.07955, eq. 4) and mask protection (arXiv 2601.03019)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_dnachunker import DNAChunkerConfig
from .kernels import fused_kernels, precise, scan_backend
from .linear import linear
from .packing import Packing
from .split_packing import SplitPacking
from .strands import border_means
from .time_blocks import blocks_of, joined, pieces_of, run_block, takes_blocks


@dataclass(frozen=True)
class Segmentation:
    """How T packed positions fall into C chunks. Every position is in exactly one chunk.

    Attributes:
        packing: the packing of the T positions.
        probability: (T,) float32, p_t that a chunk starts at t; 1 at the start of each sequence.
        natural: (T,) bool, boundaries of the router itself, p >= 1/2 (or the boundaries supplied with the batch).
        forced: (T,) bool, boundaries demanded by mask protection.
        holds_mask: (T,) bool, positions that are, or hold, a mask.
        capacity: C if it is fixed beforehand, so that the host need not wait for the device to count the chunks.
            Unused capacity is filler; chunks beyond the capacity are lost, and `overflowed` is then True.
    """

    packing: Packing
    probability: Tensor
    natural: Tensor
    forced: Tensor
    holds_mask: Tensor
    capacity: int | None = None

    @cached_property
    def boundary(self) -> Tensor:
        """(T,) bool: positions where a chunk starts."""
        return self.natural | self.forced | self.packing.first

    @cached_property
    def starts(self) -> Tensor:
        """(C,) int64: packed position of each chunk's first element; waits for the device if C is not fixed."""
        if self.capacity is not None:
            return torch.nonzero_static(self.boundary, size=self.capacity, fill_value=0).squeeze(1)
        return self.boundary.nonzero().squeeze(1)

    @cached_property
    def counted(self) -> Tensor:
        """(T,) int64: chunks that start at or before each position."""
        return self.boundary.cumsum(0)

    @cached_property
    def chunk(self) -> Tensor:
        """(T,) int64: packed index of the chunk each position belongs to."""
        chunk = self.counted - 1
        return chunk if self.capacity is None else chunk.clamp_max(self.capacity - 1)

    @cached_property
    def _borders_of_chunks(self) -> Tensor:
        """(B+1,) int64: number of chunks before each real sequence, and in total."""
        counted = F.pad(self.counted, (1, 0))
        return counted[self.packing.cu_seqlens[: len(self.packing.real_lengths) + 1].long()]

    @cached_property
    def overflowed(self) -> Tensor:
        """() bool: there were more chunks than the capacity."""
        borders = self._borders_of_chunks
        return borders[-1] > (len(self.starts) if self.capacity is None else self.capacity)

    @cached_property
    def chunks(self) -> Packing:
        """The packing of the chunks: same sequences, C positions."""
        if self.capacity is None:
            return self.packing.of_chunks(self._borders_of_chunks, len(self.starts))
        longest = min(self.packing.max_length, self.capacity)
        return Packing.filled_up(self._borders_of_chunks.clamp_max(self.capacity), self.capacity, longest)

    @cached_property
    def chunk_holds_mask(self) -> Tensor:
        """(C,) bool: chunks that hold a mask."""
        return self.total(self.holds_mask.int()) > 0

    @cached_property
    def number(self) -> Tensor:
        """(T,) int64: the index within its sequence of the chunk each position belongs to."""
        sequence = self.packing.sequence.clamp_max(len(self.chunks.starts) - 1)
        return self.chunk - self.chunks.starts[sequence]

    def spread(self, values: Tensor) -> Tensor:
        """The value of each position's chunk: (C, ...) -> (T, ...)."""
        return values[self.chunk]

    def total(self, values: Tensor) -> Tensor:
        """Sum over the positions of each chunk: (T, ...) -> (C, ...)."""
        return values.new_zeros(len(self.starts), *values.shape[1:]).index_add(0, self.chunk, values)

    @cached_property
    def gate(self) -> Tensor:
        """(T,) float32: g_t of the smoothing: the probability, but 1 at forced positions and sequence starts."""
        return torch.where(self.forced | self.packing.first, 1.0, self.probability)


@dataclass(frozen=True)
class SplitSegmentation(Segmentation):
    """How the stretches of a `SplitPacking` fall into chunks. A chunk lies on the rank where it starts.

    Positions at the head of a stretch, up to the first chunk that starts there, belong to the last chunk that starts on
    an earlier rank. `chunk` counts these chunks, one for each sequence, after the C chunks of this rank.
    """

    packing: SplitPacking

    @cached_property
    def chunks(self) -> SplitPacking:
        """The packing of the chunks, split as they lie on the ranks; collective."""
        return self.packing.of_chunks(self._borders_of_chunks, len(self.starts))

    @cached_property
    def _started(self) -> Tensor:
        """(T,) int64: chunks that start in the stretch, at or before each position."""
        return self.counted - self._borders_of_chunks[self.packing.sequence]

    @cached_property
    def chunk(self) -> Tensor:
        return torch.where(self._started > 0, self.counted - 1, len(self.starts) + self.packing.sequence)

    @cached_property
    def number(self) -> Tensor:
        return self._started + self.chunks.begins[self.packing.sequence] - 1

    def spread(self, values: Tensor) -> Tensor:
        """As `Segmentation.spread`; collective."""
        return torch.cat((values, self.chunks.beside(values, 1).squeeze(1)))[self.chunk]

    def total(self, values: Tensor) -> Tensor:
        """As `Segmentation.total`; collective."""
        count = len(self.starts), len(self.packing.lengths)
        sums = values.new_zeros(sum(count), *values.shape[1:]).index_add(0, self.chunk, values)
        own, heads = sums.split(count)
        filled = self.chunks.lengths.nonzero().squeeze(1)
        lasts = (self.chunks.starts + self.chunks.lengths - 1)[filled]
        return own.index_add(0, lasts, self.chunks.from_later(heads)[filled])


class BoundaryProbability(nn.Module):
    """p_t = (1 - cos(W_q x_t, W_k x_{t-1})) / 2 with W_q, W_k (D, D) starting as the identity, to float32's precision.

    A module of its own, with plain parameters, because ZeRO-3 gathers the parameters of a module while that module
    runs, and gathers them again for the backward pass only if the module returns a tensor.
    """

    def __init__(self, width: int, backend: str = "auto", block: int = 0) -> None:
        super().__init__()
        self.backend, self.block = backend, block
        self.query = nn.Parameter(torch.empty(width, width))
        self.key = nn.Parameter(torch.empty(width, width))

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """x (T, D), any precision -> p (T,) float32 (float64 for float64), 1 at the start of each sequence."""
        half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            split = isinstance(packing, SplitPacking)
            if scan_backend(self.backend, x.device.type, x.dtype) == "triton" and not split:
                fused: Tensor = fused_kernels().boundary_probability(x, self.query, self.key, packing.steps, half=half)
                return fused
            if not split:
                if takes_blocks(packing, self.block):
                    blocks = blocks_of(packing, self.block, 1)
                    pieces = zip(pieces_of(x, blocks), blocks, strict=True)
                    parts = (run_block(self._change, piece)[block.inner] for piece, block in pieces)
                    change = joined(parts, blocks, precise(x[:, 0]))
                else:
                    change = self._change(x)
                return torch.where(packing.first, 1.0, change)
            exact = precise(x)
            query = linear(exact, self.query.to(exact.dtype))
            key = linear(exact, self.key.to(exact.dtype))
            similarity = F.cosine_similarity(query, packing.shift(key, 1.0), dim=-1)
            return torch.where(packing.first, 1.0, ((1 - similarity) / 2).clamp(0, 1))

    def _change(self, x: Tensor) -> Tensor:
        """p of each position by the one before it, whatever their sequences; 0 for the first. x (T, D) -> (T,)."""
        exact = precise(x)
        query, key = (linear(exact, weight.to(exact.dtype)) for weight in (self.query, self.key))
        similarity = F.cosine_similarity(query[1:], key[:-1], dim=-1)
        return F.pad(((1 - similarity) / 2).clamp(0, 1), (1, 0))[: len(x)]


class Router(nn.Module):
    """Boundaries from probabilities, mask protection included."""

    def __init__(self, config: DNAChunkerConfig, stage: int) -> None:
        super().__init__()
        self.mask_protection = config.mask_protection and stage < (config.protected_stages or config.stages)
        self.strand_symmetry = config.strand_symmetry
        self.backend = config.scan_backend
        self.probability = (
            BoundaryProbability(config.width, config.scan_backend, config.layer_block)
            if config.router == "learned"
            else None
        )

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        holds_mask: Tensor,
        given: Tensor | None = None,
        capacity: int | None = None,
    ) -> Segmentation:
        """Cut packed positions into chunks.

        Args:
            x: (T, D). holds_mask: (T,) bool.
            given: (T,) bool, natural boundaries to use instead of p >= 1/2; required when the router is fixed.
            capacity: as in `Segmentation`.

        Raises:
            ValueError: a fixed router without boundaries.
        """
        if self.probability is not None:
            probability = self.probability(x, packing)
            if self.strand_symmetry:
                probability = border_means(probability, packing)
        elif given is not None:
            probability = (given | packing.first).to(torch.float32)
        else:
            raise ValueError("router is 'fixed': pass `boundaries`, one (B, L) bool tensor per stage, with the batch")
        split = isinstance(packing, SplitPacking)
        if len(x) and not split and scan_backend(self.backend, x.device.type, probability.dtype) == "triton":
            found = fused_kernels().cut_chunks(
                probability, given, holds_mask, packing, protect=self.mask_protection, capacity=capacity
            )
            cut = Segmentation(packing, probability, found.pop("natural"), found.pop("forced"), holds_mask, capacity)
            vars(cut).update(found)  # the kernels have computed these cached properties
            return cut
        natural = (probability >= 0.5) if given is None else given | packing.first
        forced = torch.zeros_like(natural)
        if self.mask_protection:
            forced = holds_mask | packing.shift(holds_mask, False)
        if packing.filler:
            natural, forced = natural & packing.real, forced & packing.real
        if isinstance(packing, SplitPacking):
            return SplitSegmentation(packing, probability, natural, forced, holds_mask)
        return Segmentation(packing, probability, natural, forced, holds_mask, capacity)

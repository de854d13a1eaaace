"""The configuration of a run's network."""

import math
from typing import Any

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.network_fields import counts_forced
from dnachunker.pretrain.config import MaskingSettings, ModelSettings, TokenizationSettings
from dnachunker.pretrain.settings.learning import OptimizerSettings


def network_config(
    model: ModelSettings, tokenization: TokenizationSettings, *, merges: str = "", **computing: Any
) -> DNAChunkerConfig:
    """The configuration of the network that the settings of a run describe.

    Args:
        merges: the byte pairs learned for the run, with a tokenization of kind `bpe`.
        computing: fields that say how the network is computed, such as `scan_backend`; default: what suits the machine.
    """
    settings: dict[str, Any] = {**model.model_dump(), **computing}
    if tokenization.kind == "learned":
        return DNAChunkerConfig(**settings)
    described: dict[str, Any] = {"kind": tokenization.kind}
    if tokenization.kind == "kmer":
        described["k"] = tokenization.k
    if tokenization.kind == "bpe":
        described["merges"] = merges
    # no ratio loss: these boundaries are given, not learned
    return DNAChunkerConfig(**{**settings, "ratio_loss_weight": 0.0}, router="fixed", segmentation=described)


def expected_chunks_per_base(
    model: ModelSettings, tokenization: TokenizationSettings, masking: MaskingSettings
) -> tuple[float, ...]:
    """Chunks of each stage per base of masked input, when the routers reach their target ratios.

    Every masked position and the one after it start a chunk, at every protected stage. The routers cut at their target
    ratios, which is taken to be independent of the masks; where the ratio loss counts forced boundaries, these are
    part of the target. A fixed tokenizer cuts at stage 0 only.
    """
    protects = model.mask_protection and not model.causal
    learned = tokenization.kind == "learned"
    chunks, before = [], 1.0
    for stage, ratio in enumerate(_natural_ratios(model, tokenization)):
        protected = protects and (model.protected_stages is None or stage < model.protected_stages)
        forced = masking.forced_share if protected else 0.0
        if learned and counts_forced(model.ratio_boundaries, stage):
            before = max(forced, ratio * before)
        else:
            before = forced + ratio * (before - forced)
        chunks.append(before)
    return tuple(chunks)


def lr_factors(
    optimizer: OptimizerSettings, model: ModelSettings, tokenization: TokenizationSettings
) -> tuple[float, ...]:
    """Factors on the learning rate, of each stage from the outermost in, then of the trunk.

    `auto` gives a level that has n positions for each position of the trunk the factor sqrt(n), by the target ratios:
    its gradients are means over n times as many positions. LDARNet (arXiv 2606.04552) takes sqrt(n) too, times the
    trunk's width over the level's, which is 1 here; H-Net (arXiv 2507.07955) has 3.0, 1.7 and 0.9.
    """
    ratios = _natural_ratios(model, tokenization)
    if optimizer.stage_lr == "auto":
        return tuple(math.prod(ratios[level:]) ** -0.5 for level in range(len(ratios) + 1))
    return optimizer.stage_lr or (1.0,) * (len(ratios) + 1)


def _natural_ratios(model: ModelSettings, tokenization: TokenizationSettings) -> tuple[float, ...]:
    """Chunks per position of each stage that the routers aim at, or that a fixed tokenizer makes of unmasked bases."""
    fixed = tokenization.chunks_per_base
    return model.target_ratios if fixed is None else (fixed, *[1.0] * (len(model.target_ratios) - 1))

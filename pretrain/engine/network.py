"""The configuration of a run's network."""

from typing import Any

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.config import MaskingSettings, ModelSettings, TokenizationSettings


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

    Every masked position and the one after it start a chunk, at every stage. The routers cut at their target ratios,
    which is taken to be independent of the masks. A fixed tokenizer cuts at stage 0 only.
    """
    forced = masking.forced_share if model.mask_protection and not model.causal else 0.0
    fixed = tokenization.chunks_per_base
    ratios = model.target_ratios if fixed is None else (fixed, *[1.0] * (len(model.target_ratios) - 1))
    chunks, before = [], 1.0
    for ratio in ratios:
        before = forced + ratio * (before - forced)
        chunks.append(before)
    return tuple(chunks)

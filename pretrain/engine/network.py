"""The configuration of a run's network."""

from typing import Any

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.config import ModelSettings, TokenizationSettings


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

"""The network a run's settings describe."""

from typing import Any

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.config import ModelSettings, SegmentationSettings


def network_config(
    model: ModelSettings, segmentation: SegmentationSettings, *, merges: str = "", **computing: Any
) -> DNAChunkerConfig:
    """Settings of a run as the configuration of its network.

    Args:
        merges: the byte pairs that were learned for it, with a segmentation of kind `bpe`.
        computing: fields that say how it is computed, such as `scan_backend`; default: what suits the machine.
    """
    settings: dict[str, Any] = {**model.model_dump(), **computing}
    if segmentation.kind == "learned":
        return DNAChunkerConfig(**settings)
    described: dict[str, Any] = {"kind": segmentation.kind}
    if segmentation.kind == "kmer":
        described["k"] = segmentation.k
    if segmentation.kind == "bpe":
        described["merges"] = merges
    # nothing learns from the ratio of boundaries that are given
    return DNAChunkerConfig(**{**settings, "ratio_loss_weight": 0.0}, router="fixed", segmentation=described)

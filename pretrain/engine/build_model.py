"""The model of a run, before an engine takes it."""

import torch

from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.config import PretrainConfig

from .network import network_config


def build_model(
    config: PretrainConfig, merges: str = "", *, label_capacity: float | None = None
) -> DNAChunkerForMaskedLM | DNAChunkerForCausalLM:
    """The model of a run, initialised from its seed alone: the same weights on every rank.

    Args:
        merges: as in `network_config`.
        label_capacity: as in `DNAChunkerConfig`.
    """
    torch.manual_seed(config.seed)
    network = network_config(
        config.model, config.segmentation, merges=merges, label_capacity=label_capacity,
        compile_trunk=config.engine.compile,
        scan_backend=config.engine.scan_backend, attention_backend=config.engine.attention_backend,
    )  # fmt: skip
    model = DNAChunkerForCausalLM(network) if network.causal else DNAChunkerForMaskedLM(network)
    if config.engine.activation_checkpointing:
        model.gradient_checkpointing_enable()
    if config.engine.precision == "bf16":
        model.bfloat16()
    return model

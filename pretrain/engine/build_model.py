"""Builds the model of a run."""

import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.config import EngineSettings, ModelSettings, TokenizationSettings

from .network import network_config


def compute_dtype(settings: EngineSettings) -> torch.dtype:
    """The precision of matrix products and kernels' inputs, under autocast too."""
    return torch.float32 if settings.precision == "fp32" else torch.bfloat16


def class_of(network: DNAChunkerConfig) -> type[DNAChunkerForMaskedLM] | type[DNAChunkerForCausalLM]:
    """The language model of a network: masked, or causal."""
    return DNAChunkerForCausalLM if network.causal else DNAChunkerForMaskedLM


def build_model(
    model: ModelSettings,
    tokenization: TokenizationSettings,
    engine: EngineSettings,
    *,
    seed: int,
    merges: str = "",
    label_capacity: float | None = None,
) -> DNAChunkerForMaskedLM | DNAChunkerForCausalLM:
    """The model of a run, initialised from the seed alone: the same weights on every rank.

    Args:
        merges: as in `network_config`.
        label_capacity: as in `DNAChunkerConfig`.
    """
    torch.manual_seed(seed)
    # ZeRO 3 gathers weights whenever a module runs, and ranks have different numbers of chunks, hence of blocks
    layer_block = engine.layer_block if engine.zero_stage < 3 else 0
    network = network_config(
        model, tokenization, merges=merges, label_capacity=label_capacity, compile_trunk=engine.compile,
        scan_backend=engine.scan_backend, attention_backend=engine.attention_backend, layer_block=layer_block,
    )  # fmt: skip
    built = class_of(network)(network)
    if engine.activation_checkpointing:
        # older releases of transformers 5 have only the second name, newer ones warn of it
        enable = getattr(built, "activation_checkpointing_enable", None) or built.gradient_checkpointing_enable
        enable()
    if engine.precision == "bf16":
        built.bfloat16()
    return built

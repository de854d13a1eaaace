"""What a configuration costs: parameters by component, floating-point operations per base. Arithmetic only, no tensors.

    python -m model.cost          prints both for the 172M model

Operations are *model* FLOPs, the convention of model-FLOPs utilisation: two per parameter of a matrix product and
position, attention scores and values, nothing for elementwise work, scans or recomputation; backward twice forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .configuration_dnachunker import DNAChunkerConfig

BACKWARD_PER_FORWARD = 2
CONV_KERNEL = 9  # of the mixer `conv`: two depthwise convolutions reach 4 + 32 positions to either side
CONV_DILATIONS = (1, 8)


def bimamba_layer_parameters(config: DNAChunkerConfig) -> int:
    """One BiMamba layer with its norm: shared projections, and two directions of their own."""
    return _bimamba_products(config) + 2 * config.inner_width * (config.state_size + 3) + config.width


def matched_hidden_width(config: DNAChunkerConfig) -> int:
    """Hidden width that makes a layer of another mixer as large as a BiMamba layer, to within one hidden channel."""
    total, width = bimamba_layer_parameters(config), config.width
    if config.mixer == "transformer":  # four square projections, an MLP, two norms
        return max(1, (total - 4 * width**2 - 2 * width) // (2 * width))
    # two in-projections and one out-projection, convolutions with biases, a norm
    return max(1, (total - width) // (3 * width + len(CONV_DILATIONS) * (CONV_KERNEL + 1)))


def mixer_layer_parameters(config: DNAChunkerConfig) -> int:
    """One layer of an encoder or decoder with its norms."""
    width, hidden = config.width, matched_hidden_width(config)
    if config.mixer == "transformer":
        return 4 * width**2 + 2 * width * hidden + 2 * width
    if config.mixer == "conv":
        return 3 * width * hidden + len(CONV_DILATIONS) * hidden * (CONV_KERNEL + 1) + width
    return bimamba_layer_parameters(config)


def _mixer_products(config: DNAChunkerConfig) -> int:
    """Multiply-adds of an encoder or decoder layer at one position."""
    width, hidden = config.width, matched_hidden_width(config)
    if config.mixer == "transformer":
        return 4 * width**2 + 2 * width * hidden + 2 * width * (2 * config.local_window + 1)
    if config.mixer == "conv":
        return 3 * width * hidden + len(CONV_DILATIONS) * hidden * CONV_KERNEL
    return _bimamba_products(config)


def _bimamba_products(config: DNAChunkerConfig) -> int:
    """Parameters of a BiMamba layer that multiply every position: projections and convolutions."""
    inner, rank, state = config.inner_width, config.dt_rank, config.state_size
    direction = inner * config.conv_width + inner * (rank + 2 * state) + rank * inner
    return 3 * config.width * inner + 2 * direction


def _trunk_products(config: DNAChunkerConfig) -> int:
    return config.trunk_layers * (4 + 2 * config.mlp_ratio) * config.width**2


def _router_products(config: DNAChunkerConfig) -> int:
    return 2 * config.width**2 if config.router == "learned" else 0


def parameters(config: DNAChunkerConfig) -> dict[str, int]:
    """Parameters of `DNAChunkerForMaskedLM` by component; the values add up to all of them."""
    layer = mixer_layer_parameters(config)
    counts = {"embedding": config.vocab_size * config.width}
    for stage, layers in enumerate(config.encoder_layers):
        counts[f"encoder {stage}"] = layers * layer
        counts[f"router {stage}"] = _router_products(config)
    counts["trunk"] = _trunk_products(config) + (2 * config.trunk_layers + 1) * config.width
    for stage, layers in reversed(list(enumerate(config.decoder_layers))):
        counts[f"decoder {stage}"] = layers * layer
    counts["norm and head"] = config.width + config.vocab_size * config.width
    return counts


@dataclass(frozen=True)
class Flops:
    """Model FLOPs per base."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


def flops_per_base(config: DNAChunkerConfig, length: float, chunks_per_base: Sequence[float]) -> Flops:
    """Model FLOPs per base of `DNAChunkerForMaskedLM`.

    Args:
        length: bases of a sequence (L).
        chunks_per_base: per stage, chunks of that stage divided by bases, as measured; the last entry times L is
            the trunk's length.

    Raises:
        ValueError: not one entry per stage.
    """
    if len(chunks_per_base) != config.stages:
        raise ValueError(f"chunks_per_base needs {config.stages} entries, one per stage; it has {len(chunks_per_base)}")
    layer = 2 * _mixer_products(config)
    forward = 2.0 * config.vocab_size * config.width  # the head
    density = 1.0  # positions of the stage per base
    for stage, chunks in enumerate(chunks_per_base):
        layers = config.encoder_layers[stage] + config.decoder_layers[stage]
        forward += density * (layers * layer + 2 * _router_products(config))
        density = chunks
    scores = 4 * config.trunk_layers * config.width * density * length  # q k^T and its product with v
    forward += density * (2 * _trunk_products(config) + scores)
    return Flops(forward, BACKWARD_PER_FORWARD * forward)


def main() -> None:
    """Print the costs of the 172M model."""
    config = DNAChunkerConfig()
    counts = parameters(config)
    for name, number in [*counts.items(), ("total", sum(counts.values()))]:
        print(f"{name:14} {number:>12,}")
    for length in (8_192, 32_768, 131_072):
        flops = flops_per_base(config, length, (0.56, 0.31))
        print(
            f"{length:>7,} bases: {flops.forward / 1e6:.0f} MFLOP forward, {flops.backward / 1e6:.0f} backward a base"
        )


if __name__ == "__main__":
    main()

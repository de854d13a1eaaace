"""What a configuration costs: parameters by component, operations per base, memory. Arithmetic only, no tensors.

`dnachunker plan --config dnachunker-172m` prints it.

Operations are *model* FLOPs, as model-FLOPs utilisation counts them: two per position and parameter of a matrix
product, and attention's scores and their product with the values. Elementwise work, scans and recomputation count
nothing; the backward pass counts twice the forward pass. With `strand_symmetry` everything but the parameters doubles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .configuration_dnachunker import DNAChunkerConfig

BACKWARD_PER_FORWARD = 2
CONV_KERNEL = 9  # of the mixer `conv`: two depthwise convolutions reach 4 + 32 positions to either side
CONV_DILATIONS = (1, 8)
_AROUND_LAYERS, _AROUND_LAYERS_SPLIT = 10, 16  # widths kept for a position beside a stage's layers, measured
_AROUND_BLOCKS = 6  # the same where layers run in blocks; counted by benchmarks/step_cost.py


def bimamba_layer_parameters(config: DNAChunkerConfig) -> int:
    """Parameters of one BiMamba layer with its norm: the shared projections, and those of each direction."""
    own = config.directions * config.inner_width * (config.state_size + 3)
    return _bimamba_products(config) + own + config.width


def matched_hidden_width(config: DNAChunkerConfig) -> int:
    """Hidden width that makes a layer of another mixer as large as a BiMamba layer, to within one hidden channel."""
    total, width = bimamba_layer_parameters(config), config.width
    if config.mixer == "transformer":  # four square projections, an MLP, two norms
        return max(1, (total - 4 * width**2 - 2 * width) // (2 * width))
    # two in-projections and one out-projection, convolutions with biases, a norm
    return max(1, (total - width) // (3 * width + len(CONV_DILATIONS) * (CONV_KERNEL + 1)))


def mixer_layer_parameters(config: DNAChunkerConfig) -> int:
    """Parameters of one encoder or decoder layer with its norms."""
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
    return 3 * config.width * inner + config.directions * direction


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
    head_norms = 2 * config.width // config.num_heads if config.qk_norm else 0
    counts["trunk"] = _trunk_products(config) + (2 * config.trunk_layers + 1) * config.width
    counts["trunk"] += config.trunk_layers * head_norms
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
    forward *= config.strands
    return Flops(forward, BACKWARD_PER_FORWARD * forward)


def repeated_flops_per_base(
    config: DNAChunkerConfig, bases: float, window: float, chunks_per_base: Sequence[float], *, layer_block: int,
    checkpointing: bool = False,
) -> float:  # fmt: skip
    """Model FLOPs per base that BiMamba layers in blocks of time compute in training beside `flops_per_base`.

    Each block is computed again in the backward pass, but for its out-projection, which nothing there reads. States
    that enter the direction that reads backward take a walk of their own through all blocks but the first: forward,
    again in the backward pass, and backward. With `checkpointing`, the layer computed again takes this walk once more.

    Args:
        bases: in all sequences of the micro-batch together. window: of the longest sequence.
        chunks_per_base, layer_block, checkpointing: as in `activation_bytes`, on one rank.
    """
    products = _bimamba_products(config)
    inside = 1 - config.inner_width * config.width / products  # without the out-projection
    repeated, density = 0.0, 1.0
    for stage, chunks in enumerate(chunks_per_base):
        if _in_blocks(config, density * bases, window, layer_block):
            blocks = math.ceil(density * bases / layer_block)
            walk = 0.0 if config.causal else inside * (blocks - 1) / blocks
            passes = inside + (2 + BACKWARD_PER_FORWARD + checkpointing) * walk
            layers = config.encoder_layers[stage] + config.decoder_layers[stage]
            repeated += density * layers * 2 * products * passes
        density = chunks
    return config.strands * repeated


def _in_blocks(config: DNAChunkerConfig, positions: float, window: float, layer_block: int) -> bool:
    """Whether the layers of a stage with so many positions run in blocks of time; see `time_blocks.takes_blocks`."""
    return config.mixer == "bimamba" and 0 < layer_block < min(positions, window)


def activation_bytes(
    config: DNAChunkerConfig, bases: int, chunks_per_base: Sequence[float], *, checkpointing: bool = False,
    ranks: int = 1, window: int = 0, layer_block: int = 0, value_bytes: float = 4, stream_bytes: float = 4,
) -> float:  # fmt: skip
    """Bytes that one forward pass keeps for its backward pass, accurate to about a tenth in float32.

    Args:
        bases: bases in all sequences of the micro-batch together.
        chunks_per_base: as in `flops_per_base`.
        checkpointing: keep each layer's input and recompute the rest, one layer at a time.
        ranks: over which the sequences are split; `bases` are then those of one rank.
        window: bases of the longest sequence.
        layer_block: as in `DNAChunkerConfig`: BiMamba layers of longer windows keep their input, and compute a block
            again at a time.
        value_bytes: of a number, on average. stream_bytes: of a number between layers whose inside is not kept.
    """
    layer, trunk_layer = _values_kept_by_mixer(config), 9.0 * config.width + 2 * config.mlp_ratio * config.width
    trunk_layer += 4 * config.width if config.qk_norm else 0  # inputs of the norms, and these normalised
    if config.num_heads % ranks:
        trunk_layer += 2 * (ranks - 1) * config.width  # keys and values of the other ranks
    kept, largest, density = 0.0, 0.0, 1.0  # bytes a base: kept, and of the layer that is computed again
    size = value_bytes
    for stage, chunks in enumerate(chunks_per_base):
        layers = config.encoder_layers[stage] + config.decoder_layers[stage]
        blocks = ranks == 1 and _in_blocks(config, density * bases, window, layer_block)
        recomputed = checkpointing or blocks
        # beside the layers: the router's projections, the residual, spreading and smoothing
        around = _AROUND_BLOCKS if blocks else _AROUND_LAYERS_SPLIT if ranks > 1 else _AROUND_LAYERS
        of_stage = stream_bytes if recomputed else value_bytes
        size = size if stage else of_stage
        kept += density * (of_stage * around * config.width)
        kept += density * layers * (stream_bytes * config.width if recomputed else value_bytes * layer)
        if recomputed:
            held = min(density, layer_block / bases) if blocks else density
            gradients = 2 * stream_bytes * density * config.width if blocks else 0  # of the layer's input and output
            largest = max(largest, value_bytes * held * layer + gradients)
        density = chunks
    kept += (
        density * config.trunk_layers * (stream_bytes * config.width if checkpointing else value_bytes * trunk_layer)
    )
    kept += size * (2 * config.width + 3 * config.vocab_size)  # embedding, final norm, logits
    largest = max(largest, stream_bytes * density * trunk_layer) if checkpointing else largest
    return config.strands * bases * (kept + largest)


def _values_kept_by_mixer(config: DNAChunkerConfig) -> float:
    """Numbers one encoder or decoder layer keeps for each position."""
    width, inner, hidden = config.width, config.inner_width, matched_hidden_width(config)
    if config.mixer == "transformer":
        return 23 * width + 2 * hidden  # keys and values lie in memory three times, once for each block that sees them
    if config.mixer == "conv":
        return 2 * width + 10.5 * hidden
    states = 2 * inner * config.state_size / 32  # the scan stores every 32nd state of each direction
    return 3 * width + 12 * inner + 2 * (config.dt_rank + 2 * config.state_size) + states


def group_bytes(
    config: DNAChunkerConfig, windows: int, bases: float, chunks_per_base: Sequence[float], *, ranks: int,
    value_bytes: int, checkpointing: bool = False,
) -> float:  # fmt: skip
    """Bytes that a rank sends to its context group in a forward and a backward pass, but for some integers.

    What crosses the borders of a stretch does not grow with its length; what the trunk sends does. Where the ranks
    divide the heads, a rank sends all but one part of its queries, keys, values and results; elsewhere it sends its
    keys and values to every rank. Chunks that change ranks before and after the trunk are not counted: the ranks are
    taken to have equally many.

    Args:
        windows: in the pass. bases: in this rank's stretches of them together.
        chunks_per_base: as in `flops_per_base`.
        ranks: of the group.
        value_bytes: of an activation.
        checkpointing: layers run forward a second time.
    """
    forward = 3 if checkpointing else 2  # passes through the layers that send as much as a forward pass
    inner, halo = config.inner_width, 2 * (config.conv_width - 1)
    mixer = windows * inner * (halo * value_bytes + 2 * 2 * config.state_size * 4)  # two directions, factor and state
    layers = sum(config.encoder_layers) + sum(config.decoder_layers)
    attention = (
        (2 if config.num_heads % ranks else 4 / ranks) * config.width * bases * chunks_per_base[-1] * value_bytes
    )
    # of a stage: the router's key, the smoothing's factors and states, the vector of the last chunk
    stage = windows * (config.width * (4 + value_bytes) + 2 * (config.width + 1) * 4)
    sent = forward * (layers * mixer + config.trunk_layers * attention) + 2 * config.stages * stage
    return (ranks - 1) * sent

"""The fields that define a network: name, type, default and meaning of each, and which values go together.

They are declared once, for the model's configuration and for the `model` section of a pretraining config. This file
imports no library, so that a typo is refused before torch is loaded.
"""

from collections.abc import Iterable
from inspect import get_annotations
from typing import Annotated, Literal, get_args, get_origin

LAYERS = ("encoder_layers", "decoder_layers", "trunk_layers")  # a stage, or the trunk, may have none
_AT_LEAST_ONE = (
    "width", "num_heads", "mlp_ratio", "local_window", "state_size", "conv_width", "expand", "dt_rank",
    "protected_stages",
)  # fmt: skip
_CAUSAL_NEEDS = {"mixer": "bimamba", "chunk_pooling": "first", "strand_symmetry": False}


class NetworkFields:
    """Defaults: the 172M model of the paper (arXiv 2601.03019 v4). Tuples have one entry per stage, outermost first."""

    causal: Annotated[bool, "read forward only and predict the next base; only such a model can generate"] = False
    width: Annotated[int, "D, channels of every layer at every stage"] = 640
    encoder_layers: Annotated[tuple[int, ...], "layers of each stage's encoder; one entry per stage"] = (2, 2)
    decoder_layers: Annotated[tuple[int, ...], "layers of each stage's decoder; one entry per stage"] = (2, 2)
    trunk_layers: Annotated[int, "layers of the trunk, the Transformer over the chunks of the last stage"] = 30
    num_heads: Annotated[int, "attention heads of the trunk, and of mixer `transformer`"] = 10
    mlp_ratio: Annotated[int, "inner channels of the trunk's MLPs, as a multiple of width"] = 4
    rope_theta: Annotated[float, "base of the rotary position angles (arXiv 2104.09864)"] = 10_000.0
    qk_norm: Annotated[
        bool, "in the trunk, RMSNorm of each head's queries and keys after RoPE (QK-norm, arXiv 2010.04245)"
    ] = False
    mixer: Annotated[
        Literal["bimamba", "transformer", "conv"],
        "layers of encoders and decoders; transformer (local attention) and conv (dilated) are as large as bimamba",
    ] = "bimamba"
    local_window: Annotated[int, "positions to either side that mixer `transformer` sees"] = 64
    state_size: Annotated[int, "N, states of a Mamba channel"] = 16
    conv_width: Annotated[int, "positions a Mamba convolution covers"] = 4
    expand: Annotated[int, "inner channels of Mamba, as a multiple of width"] = 2
    dt_rank: Annotated[int | None, "rank of Mamba's time-step projection; default: width / 16, rounded up"] = None
    target_ratios: Annotated[
        tuple[float, ...], "alpha of each stage: chunks per position that the ratio loss aims at"
    ] = (0.33, 0.33)
    ratio_loss_weight: Annotated[
        float, "lambda, weight of the ratio loss; the default is H-Net's (arXiv 2507.07955)"
    ] = 0.03
    ratio_boundaries: Annotated[
        Literal["natural", "forced", "forced-stage-0"],
        "boundaries that the ratio loss counts: the routers' own, or forced ones too, at all stages or at stage 0",
    ] = "natural"
    chunk_pooling: Annotated[
        Literal["first", "mean"], "a chunk's vector: that of its first position, or the mean over its positions"
    ] = "first"
    mask_protection: Annotated[bool, "each masked base is a chunk of its own at every stage; off if causal"] = True
    protected_stages: Annotated[int | None, "outermost stages that have mask protection; default: all"] = None
    residual_gating: Annotated[bool, "no residual from the encoder where a chunk holds a mask; off if causal"] = True
    strand_symmetry: Annotated[
        bool, "read both strands, at twice the cost: exactly equivariant to the reverse complement"
    ] = False


def counts_forced(ratio_boundaries: str, stage: int) -> bool:
    """Whether the ratio loss of a stage counts forced boundaries too."""
    return ratio_boundaries == "forced" or (ratio_boundaries == "forced-stage-0" and stage == 0)


def split_refusal(network: NetworkFields, segmentation: str) -> str:
    """Why windows of this network cannot be split over the ranks of a context group; empty if they can.

    Args:
        segmentation: the kind of a fixed segmentation, or any other word.
    """
    for name, needed in {"mixer": "bimamba", "causal": False, "strand_symmetry": False}.items():
        if getattr(network, name) != needed:
            return f"{name}={getattr(network, name)} is made for windows on one rank; {name}={needed} can be split"
    return (
        "byte pairs are merged in windows on one rank; other segmentations can be split"
        if segmentation == "bpe"
        else ""
    )


def require_choices(network: NetworkFields, owner: type) -> None:
    """Check the fields that `owner` itself declares as a Literal.

    Raises:
        ValueError: one has none of the values of its type.
    """
    for name, annotation in get_annotations(owner).items():
        kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
        if get_origin(kind) is Literal and getattr(network, name) not in get_args(kind):
            choices = ", ".join(get_args(kind))
            raise ValueError(f"{name} is {getattr(network, name)!r}; it must be one of {choices}")


def require_at_least(least: int, network: NetworkFields, names: Iterable[str]) -> None:
    """Check numbers, and every entry of tuples of them; None stands for a default.

    Raises:
        ValueError: one is less than `least`.
    """
    for name in names:
        value = getattr(network, name)
        if value is not None and min(value if isinstance(value, tuple | list) else (value,)) < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def check_network(network: NetworkFields) -> None:
    """Refuse values that fit no network.

    Raises:
        ValueError: a value outside its choices or range, or one that no causal model can have; lists of different
            length; heads that do not divide the width.
    """
    require_choices(network, NetworkFields)
    for name, needed in _CAUSAL_NEEDS.items():
        if network.causal and getattr(network, name) != needed:
            raise ValueError(f"causal needs {name}={needed}: {name}={getattr(network, name)} looks ahead")
    stages, decoders, targets = map(len, (network.encoder_layers, network.decoder_layers, network.target_ratios))
    if not stages or not stages == decoders == targets:
        raise ValueError(
            "encoder_layers, decoder_layers and target_ratios need one entry per stage, at least one: "
            f"they have {stages}, {decoders} and {targets}"
        )
    require_at_least(1, network, _AT_LEAST_ONE)
    require_at_least(0, network, LAYERS)
    if network.protected_stages is not None and network.protected_stages > stages:
        raise ValueError(f"protected_stages is {network.protected_stages}; there are {stages} stages")
    if any(not 0 < ratio < 1 for ratio in network.target_ratios):
        raise ValueError(f"target_ratios are {network.target_ratios}; each must lie strictly between 0 and 1")
    if network.width % (2 * network.num_heads):
        raise ValueError(
            f"width {network.width} does not divide into num_heads={network.num_heads} heads of even width"
        )
    if network.ratio_loss_weight < 0:
        raise ValueError(f"ratio_loss_weight is {network.ratio_loss_weight}; it must not be negative")
    if network.rope_theta <= 0:
        raise ValueError(f"rope_theta is {network.rope_theta}; it must be more than 0")

"""Every choice the network depends on; without arguments, the 172M model of the paper (arXiv 2601.03019 v4)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from .alphabet import MASK_ID, PAD_ID, VOCABULARY_SIZE

_CHOICES = {
    "ratio_boundaries": ("natural", "forced"),
    "chunk_pooling": ("first", "mean"),
    "mixer": ("bimamba", "transformer", "conv"),
    "router": ("learned", "fixed"),
    "compile_trunk": ("auto", "on", "off"),
    "scan_backend": ("auto", "triton", "reference", "cpu", "mamba_ssm"),
    "attention_backend": ("auto", "flash_attn", "torch_varlen", "sdpa"),
}

_CAUSAL_NEEDS = {"mixer": "bimamba", "router": "learned", "chunk_pooling": "first", "strand_symmetry": False}


class DNAChunkerConfig(PretrainedConfig):
    """Configuration of all DNACHUNKER classes.

    Args:
        causal: predict the next base from those before it, `DNAChunkerForCausalLM`: every layer reads forward only.
            Mask protection and residual gating are then off: there are no masks, and a gate over a whole chunk would
            tell its first bases of its last ones.
        width: D, of every layer at every stage.
        encoder_layers, decoder_layers: layers per stage, outermost first; their length is the number of stages.
        trunk_layers, num_heads, mlp_ratio, rope_theta: the Transformer trunk.
        mixer: the layers of encoders and decoders: `bimamba`, or of the same size `transformer` (local attention) or
            `conv` (dilated convolutions).
        local_window: positions to either side that local attention sees.
        state_size, conv_width, expand, dt_rank: Mamba's; dt_rank None means ceil(width / 16).
        router: `learned`, or `fixed` to take boundaries with every batch.
        segmentation: with a fixed router, how to cut where a batch brings no boundaries: see fixed_segmentation.py.
        target_ratios: alpha per stage, chunks per position the ratio loss pulls to; the paper's 0.33.
        ratio_loss_weight: lambda; H-Net's 0.03 (arXiv 2507.07955), for the paper gives none.
        ratio_boundaries: count `natural` boundaries (p >= 1/2) in the ratio loss, or `forced` ones too.
        chunk_pooling: a chunk's vector is that of its `first` position, or the `mean` over its positions.
        mask_protection: masked positions are chunks of their own at every stage.
        residual_gating: the encoder's residual is left out where the chunk holds a mask.
        strand_symmetry: read every sequence together with its reverse complement (strands.py), so that the reverse
            complement has the mirror image of its logits and chunks; every base costs twice as much.
        chunk_capacity: per stage, places for chunks per base; None for as many as there are, which makes the host wait
            for the device once a stage to count them. A batch with more chunks than places gets the loss NaN, so that
            no optimizer learns from what was cut short; unused places cost what chunks cost.
        label_capacity: places for labelled positions per base; with labels, the head then runs on those positions alone
            and no logits are returned. None for logits everywhere. More labels than places make the loss NaN.
        compile_trunk: let torch.compile fuse norm, GELU and sums of the trunk's MLPs: `auto` on CUDA, `on`, `off`.
        scan_backend, attention_backend: see kernels.py.
        initializer_range: standard deviation of normal initialisation.
        time_step_min, time_step_max: range of Mamba's initial step sizes.

    Raises:
        ValueError: a value out of its choices or one no causal model can have, stages that disagree in number, heads
            that do not divide the width.
    """

    model_type = "dnachunker"
    attribute_map = {  # noqa: RUF012  (the base class declares it this way)
        "hidden_size": "width",
        "num_hidden_layers": "trunk_layers",
        "num_attention_heads": "num_heads",
    }

    def __init__(
        self,
        vocab_size: int = VOCABULARY_SIZE,
        causal: bool = False,
        width: int = 640,
        encoder_layers: Sequence[int] = (2, 2),
        decoder_layers: Sequence[int] = (2, 2),
        trunk_layers: int = 30,
        num_heads: int = 10,
        mlp_ratio: int = 4,
        rope_theta: float = 10_000.0,
        mixer: str = "bimamba",
        local_window: int = 64,
        state_size: int = 16,
        conv_width: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        router: str = "learned",
        segmentation: Mapping[str, Any] | None = None,
        target_ratios: Sequence[float] = (0.33, 0.33),
        ratio_loss_weight: float = 0.03,
        ratio_boundaries: str = "natural",
        chunk_pooling: str = "first",
        mask_protection: bool = True,
        residual_gating: bool = True,
        strand_symmetry: bool = False,
        chunk_capacity: Sequence[float] | None = None,
        label_capacity: float | None = None,
        compile_trunk: str = "off",
        scan_backend: str = "auto",
        attention_backend: str = "auto",
        norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        time_step_min: float = 0.001,
        time_step_max: float = 0.1,
        pad_token_id: int = PAD_ID,
        mask_token_id: int = MASK_ID,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.causal = causal
        self.width = width
        self.encoder_layers = list(encoder_layers)
        self.decoder_layers = list(decoder_layers)
        self.trunk_layers = trunk_layers
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.rope_theta = rope_theta
        self.mixer = mixer
        self.local_window = local_window
        self.state_size = state_size
        self.conv_width = conv_width
        self.expand = expand
        self.dt_rank = math.ceil(width / 16) if dt_rank is None else dt_rank
        self.router = router
        self.segmentation = None if segmentation is None else dict(segmentation)
        self.target_ratios = list(target_ratios)
        self.ratio_loss_weight = ratio_loss_weight
        self.ratio_boundaries = ratio_boundaries
        self.chunk_pooling = chunk_pooling
        self.mask_protection = mask_protection and not causal
        self.residual_gating = residual_gating and not causal
        self.strand_symmetry = strand_symmetry
        self.chunk_capacity = None if chunk_capacity is None else list(chunk_capacity)
        self.label_capacity = label_capacity
        self.compile_trunk = compile_trunk
        self.scan_backend = scan_backend
        self.attention_backend = attention_backend
        self.norm_eps = norm_eps
        self.initializer_range = initializer_range
        self.time_step_min = time_step_min
        self.time_step_max = time_step_max
        self.mask_token_id = mask_token_id
        self.pad_token_id = pad_token_id
        self._check()
        super().__init__(**kwargs)

    @property
    def stages(self) -> int:
        """Number of chunking stages."""
        return len(self.encoder_layers)

    @property
    def strands(self) -> int:
        """How many strands of a sequence the network reads."""
        return 2 if self.strand_symmetry else 1

    @property
    def inner_width(self) -> int:
        """Channels inside a Mamba layer."""
        return self.expand * self.width

    @property
    def directions(self) -> int:
        """Ways in which a Mamba layer reads: forward, and backward unless causal."""
        return 1 if self.causal else 2

    def _check(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        for name, needed in _CAUSAL_NEEDS.items():
            if self.causal and getattr(self, name) != needed:
                raise ValueError(
                    f"a causal model needs {name} {needed!r}, not {getattr(self, name)!r}: that looks ahead"
                )
        if self.segmentation is not None and self.router != "fixed":
            raise ValueError("a segmentation needs router='fixed': a learned router cuts by itself")
        if self.segmentation is not None and self.strand_symmetry:
            raise ValueError("a segmentation with strand_symmetry: k-mers and byte pairs of a strand mirror no others")
        if not self.stages or not len(self.decoder_layers) == len(self.target_ratios) == self.stages:
            raise ValueError(
                "encoder_layers, decoder_layers and target_ratios need one entry per stage, at least one: "
                f"they have {self.stages}, {len(self.decoder_layers)} and {len(self.target_ratios)}"
            )
        if self.chunk_capacity is not None and (
            len(self.chunk_capacity) != self.stages or any(not 0 < places <= 1 for places in self.chunk_capacity)
        ):
            raise ValueError(f"chunk_capacity is {self.chunk_capacity}; it needs a number in (0, 1] per stage, or None")
        if self.label_capacity is not None and not 0 < self.label_capacity <= 1:
            raise ValueError(f"label_capacity is {self.label_capacity}; it must be a number in (0, 1], or None")
        if any(not 0 < ratio < 1 for ratio in self.target_ratios):
            raise ValueError(f"target_ratios are {self.target_ratios}; each must lie strictly between 0 and 1")
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} does not divide into {self.num_heads} heads of even width")

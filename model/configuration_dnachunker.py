"""The configuration of all DNACHUNKER classes; without arguments, the 172M model of the paper."""

import math
from collections.abc import Mapping
from inspect import get_annotations
from typing import TYPE_CHECKING, Annotated, Any, Literal

from transformers import PretrainedConfig, __version__

from .alphabet import MASK_ID, PAD_ID, VOCABULARY_SIZE
from .network_fields import NetworkFields, check_network, require_choices

if int(__version__.partition(".")[0]) < 5:  # here, since Hugging Face loads this file before all others
    raise ImportError(f"DNACHUNKER needs transformers 5.0 or newer, not {__version__}: pip install -U transformers")


class DNAChunkerConfig(NetworkFields, PretrainedConfig):
    """The fields of the network (`NetworkFields`), of fixed segmentation, and of how the network is computed.

    A causal model has neither mask protection nor residual gating: it sees no masks, and a gate over a whole chunk
    would leak the chunk's last bases to its first ones. Tuples are kept as lists, as JSON has them.

    Args:
        given: any field by name; all other names go to `PretrainedConfig`.

    Raises:
        ValueError: as `check_network`; a value outside its choices or range; a segmentation without a fixed router or
            with `strand_symmetry`; a causal model with a fixed router.
    """

    model_type = "dnachunker"
    attribute_map = {  # noqa: RUF012  (the base class declares it this way)
        "hidden_size": "width",
        "num_hidden_layers": "trunk_layers",
        "num_attention_heads": "num_heads",
    }
    keys_to_ignore_at_inference = [  # noqa: RUF012  (as above): all but loss and scores, which Trainer gathers
        "mlm_loss", "next_base_loss", "ratio_loss", "stage_boundaries", "stage_boundary_probabilities",
        "stage_chunk_ids", "stage_chunk_counts", "stage_natural_rates", "stage_forced_counts",
    ]  # fmt: skip

    vocab_size: Annotated[int, "number of input ids, and of logits per base"] = VOCABULARY_SIZE
    router: Annotated[Literal["learned", "fixed"], "fixed: boundaries from the batch or `segmentation`"] = "learned"
    segmentation: Annotated[
        Mapping[str, Any] | None, "how a fixed router cuts a batch without boundaries; see fixed_segmentation.py"
    ] = None
    label_capacity: Annotated[
        float | None,
        "labelled positions per base that the buffer of the masked language model holds: with labels, the head runs on "
        "labelled positions only and no logits are returned; more labels make the loss NaN. None: logits everywhere",
    ] = None
    compile_trunk: Annotated[
        Literal["auto", "on", "off"], "torch.compile for the trunk's MLPs, norm and residual included; auto: on CUDA"
    ] = "off"
    scan_backend: Annotated[Literal["auto", "triton", "mamba_ssm", "cpu", "chunked", "reference"], "see kernels.py"] = (
        "auto"
    )
    layer_block: Annotated[
        int,
        "positions that a BiMamba layer computes at a time where a window is longer: its memory is then that of a "
        "block, and the backward pass computes each block again; 0: whole windows",
    ] = 65_536
    attention_backend: Annotated[
        Literal["auto", "flash_attn_3", "flash_attn", "torch_varlen", "sdpa"], "see kernels.py"
    ] = "auto"
    norm_eps: float = 1e-5
    initializer_range: Annotated[float, "standard deviation of the initial values of linear layers"] = 0.02
    time_step_min: Annotated[float, "smallest initial time step of Mamba"] = 0.001
    time_step_max: Annotated[float, "largest initial time step of Mamba"] = 0.1
    pad_token_id: int = PAD_ID
    mask_token_id: int = MASK_ID

    if TYPE_CHECKING:
        dt_rank: int  # type: ignore[assignment]  # never None after __init__

    def __init__(self, **given: Any) -> None:
        for name in _FIELDS:
            value = given.pop(name, getattr(DNAChunkerConfig, name))
            setattr(self, name, list(value) if isinstance(value, tuple | list) else value)
        if self.dt_rank is None:
            self.dt_rank = math.ceil(self.width / 16)
        self.mask_protection = self.mask_protection and not self.causal
        self.residual_gating = self.residual_gating and not self.causal
        self._check()
        super().__init__(**given)

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
        """Number of directions in which a Mamba layer reads: forward, and backward unless causal."""
        return 1 if self.causal else 2

    @property
    def trunk_attention(self) -> str:
        """The trunk's attention backend: that of `attn_implementation` where it names one, else `attention_backend`."""
        return _ATTENTION.get(self._attn_implementation, self.attention_backend)

    def _check(self) -> None:
        check_network(self)
        require_choices(self, DNAChunkerConfig)
        if self.causal and self.router == "fixed":
            raise ValueError("causal needs router=learned: a fixed router may look ahead")
        if self.segmentation is not None and self.router != "fixed":
            raise ValueError("a segmentation needs router='fixed': a learned router cuts by itself")
        if self.segmentation is not None and self.strand_symmetry:
            raise ValueError("segmentation excludes strand_symmetry: a tokenizer may cut the two strands differently")
        if self.layer_block < 0:
            raise ValueError(f"layer_block is {self.layer_block}; it must be a number of positions, or 0")
        if self.label_capacity is not None and not 0 < self.label_capacity <= 1:
            raise ValueError(f"label_capacity is {self.label_capacity}; it must be a number in (0, 1], or None")


_ATTENTION = {"sdpa": "sdpa", "flash_attention_2": "flash_attn"}  # Hugging Face's names
_FIELDS = (*get_annotations(NetworkFields), *get_annotations(DNAChunkerConfig))

"""The Hugging Face classes: the bare model, the masked language model, the classifiers of sequences and of bases.

`save_pretrained` writes this package's files beside the weights, so that the Auto classes load a saved folder with
`trust_remote_code=True` where torch, transformers and safetensors are installed.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .attention import TrunkLayer
from .configuration_dnachunker import DNAChunkerConfig
from .context_group import ContextGroup
from .fixed_segmentation import token_starts
from .hierarchy import Hierarchy, HierarchyOutput
from .initialization import initialize
from .inputs import check_generic, check_inputs, check_split
from .kernels import precise
from .kernels_cpu_words import Letters
from .linear import through
from .losses import classification_loss, labelled_rows, mlm_loss, total_ratio_loss, void_where
from .mixers import MIXERS
from .outputs import DNAChunkerClassifierOutput, DNAChunkerMaskedLMOutput, DNAChunkerOutput, describe
from .packing import Packing, pack, take, unpack
from .saved_code import name_needed_files
from .split_packing import SplitPacking
from .strands import base_means, borders_on_both, both_strands, complement_logits, opposite, sequence_means

if TYPE_CHECKING:  # not for types: the files that a module names are saved with it, and users of a model need these two
    from .collator_dnachunker import DNADataCollator  # noqa: F401
    from .tokenization_dnachunker import DNATokenizer  # noqa: F401

_AUTO_MAP = {
    "AutoConfig": "configuration_dnachunker.DNAChunkerConfig",
    "AutoModel": "modeling_dnachunker.DNAChunkerModel",
    "AutoModelForMaskedLM": "modeling_dnachunker.DNAChunkerForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_dnachunker.DNAChunkerForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_dnachunker.DNAChunkerForTokenClassification",
}


class DNAChunkerPreTrainedModel(PreTrainedModel):
    """What the classes share: initialisation, saving with code, names of parameters without weight decay."""

    config_class = DNAChunkerConfig
    config: DNAChunkerConfig
    base_model_prefix = "dnachunker"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # Trainer: a loss is the mean over its own batch
    _supports_sdpa = _supports_flash_attn = True
    _no_split_modules = [*(layer.__name__ for layer in MIXERS.values()), TrunkLayer.__name__]  # noqa: RUF012  (as the base class has it)

    def _init_weights(self, module: nn.Module) -> None:
        initialize(module, self.config)

    def get_correct_attn_implementation(self, requested_attention: str | None, *args: Any, **kwargs: Any) -> str:
        """As PreTrainedModel's, but without a request it is "eager", which leaves the choice to `attention_backend`."""
        return str(super().get_correct_attn_implementation(requested_attention or "eager", *args, **kwargs))

    def auto_map(self) -> dict[str, str]:
        """The Auto classes that a saved folder offers, each with its file and class."""
        causal = self.config.causal  # modeling_causal.py adds the causal class; only that class saves the file
        return {name: where for name, where in _AUTO_MAP.items() if not (causal and name == "AutoModelForMaskedLM")}

    def save_pretrained(self, save_directory: str | os.PathLike[Any], *args: Any, **kwargs: Any) -> None:
        """As PreTrainedModel's, with an `auto_map` that names every Auto class, not only the one saved."""
        self.config.auto_map = self.auto_map()
        super().save_pretrained(save_directory, *args, **kwargs)
        modules = {where.partition(".")[0] for where in self.config.auto_map.values()}
        name_needed_files(Path(save_directory), sorted(modules))

    def no_weight_decay_parameter_names(self) -> set[str]:
        """Parameters AdamW should not decay: norms, biases, A_log, D, embeddings (names as in named_parameters)."""
        names = set()
        for prefix, module in self.named_modules():
            for name, _ in module.named_parameters(recurse=False):
                whole = isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.Embedding)
                if whole or name.endswith("bias") or name in ("A_log", "D"):
                    names.add(f"{prefix}.{name}" if prefix else name)
        return names


class DNAChunkerModel(DNAChunkerPreTrainedModel):
    """Embedding, hierarchy, final norm: token ids to one vector per base.

    Attributes:
        context: set by a training loop whose ranks share each window: inputs, labels and outputs are then those of this
            rank's stretches, (B, l) with the same B on all ranks, and losses are this rank's share of a sum over the
            ranks. Counts of chunks are those of chunks that start on this rank.
    """

    context: ContextGroup | None = None

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__(config)
        self.embedding: nn.Module = nn.Embedding(config.vocab_size, config.width)
        self.token_starts = None if config.segmentation is None else token_starts(config.segmentation)
        self.hierarchy = Hierarchy(config)
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value

    def run_packed(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        boundaries: Sequence[Tensor] | None = None,
        chunk_capacity: Sequence[float] | None = None,
        generic: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, HierarchyOutput, Packing, Tensor, tuple[int, int]]:
        """The network on packed bases, for heads that need no (B, L, D) tensor.

        Args:
            generic: further arguments of `forward`; see `check_generic`.
            input_ids, attention_mask, inputs_embeds, output_hidden_states, boundaries, chunk_capacity: as `forward`.

        Returns:
            hidden (T, D) after the final norm; the hierarchy's output; the packing; (T,) int64, the index of each
            packed base in the flattened (B*L,) input; and (B, L). With `strand_symmetry` the packing holds both
            strands, and the bases of the other strand have index B*L.

        Raises:
            ValueError, TypeError: as `check_inputs` and `check_generic`.
        """
        config = self.config
        present = check_inputs(config, input_ids, inputs_embeds, attention_mask, boundaries, chunk_capacity)
        check_generic(config, generic or {}, present)
        shape, nowhere = (present.shape[0], present.shape[1]), present.numel()
        if self.context is not None:
            check_split(config, chunk_capacity)
        if config.strand_symmetry and input_ids is not None:
            input_ids, present = both_strands(input_ids, present)
        packing, index = pack(present, wait=chunk_capacity is None)
        if self.context is not None:
            packing = SplitPacking.of(packing, self.context)
        starts = letters = None
        if input_ids is not None:
            ids = take(input_ids, index, config.pad_token_id)
            x, masked = self.embedding(ids), ids == config.mask_token_id
            letters = Letters.of(ids, packing) if self.hierarchy.reads_letters(x, packing) else None
            starts = self.token_starts(ids, packing) if self.token_starts is not None and boundaries is None else None
        elif inputs_embeds is not None:  # masks must be protected all the same: they are known by their vector
            x = take(inputs_embeds, index, 0)
            masked = (x == self.embedding(index.new_full((1,), config.mask_token_id)).to(x.dtype)).all(-1)
        index = index.clamp_max(nowhere)  # boundaries, labels and outputs are of the given strand only
        given = None
        if boundaries is not None:
            given = [take(b.bool(), index, False) for b in boundaries]
            if config.strand_symmetry:
                given = [borders_on_both(b, packing) for b in given]
        elif starts is not None:
            given = [starts] + [torch.ones_like(starts)] * (config.stages - 1)
        keep = bool(config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        found = self.hierarchy(x, packing, masked, given, keep, chunk_capacity, letters)
        if config.strand_symmetry and keep:
            found = replace(found, levels=tuple(base_means(level, packing) for level in found.levels))
        hidden = self.norm(found.hidden)
        return hidden, replace(found, hidden=hidden), packing, index, shape

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        boundaries: Sequence[Tensor] | None = None,
        chunk_capacity: Sequence[float] | None = None,
        inputs_embeds: Tensor | None = None,
        **generic: Any,
    ) -> DNAChunkerOutput | tuple[Any, ...]:
        """Vectors per base.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), non-zero where there is a base; default: where input_ids is not [PAD].
            output_hidden_states: also return every level's vectors.
            return_dict: False for a plain tuple.
            boundaries: per stage (B, L) bool, chunk starts to use in place of the routers' decisions; required when
                `config.router` is `fixed` without a `config.segmentation`. At stage 1 only marks at the first base
                of a stage-0 chunk count.
            chunk_capacity: per stage, how many chunks per base the buffers hold. None: as many as there are; the host
                then waits for the device once a stage to count the chunks. More chunks than the capacity make the
                loss NaN, so that no optimizer learns from a truncated batch. Unused capacity costs what chunks cost.
            inputs_embeds: (B, L, D), vectors in place of input_ids. Positions that hold the vector of [MASK] count as
                masked; without an attention_mask no position is a pad.
            generic: `token_type_ids`, `position_ids`, `output_attentions` and whatever else generic code hands over;
                accepted if it changes nothing (see `check_generic`).

        Returns:
            DNAChunkerOutput.

        Raises:
            ValueError, TypeError: inputs that do not fit, in one line; see inputs.py.
        """
        hidden, found, packing, index, shape = self.run_packed(
            input_ids, attention_mask, inputs_embeds=inputs_embeds, output_hidden_states=output_hidden_states,
            boundaries=boundaries, chunk_capacity=chunk_capacity, generic=generic,
        )  # fmt: skip
        if self.config.strand_symmetry:
            hidden = base_means(hidden, packing)
        output = DNAChunkerOutput(last_hidden_state=unpack(hidden, index, shape), **describe(found, index, shape))
        return output.to_tuple() if return_dict is False else output


class DNAChunkerForMaskedLM(DNAChunkerPreTrainedModel):
    """The pretraining model: logits over the vocabulary at every base, MLM loss plus ratio loss."""

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__(config)
        if config.causal:
            raise ValueError("DNAChunkerForMaskedLM cannot be causal: use DNAChunkerForCausalLM")
        self.dnachunker = DNAChunkerModel(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,
        loss_normalizer: Tensor | float | None = None,
        sequence_normalizer: Tensor | float | None = None,
        ratio_loss_scale: float = 1.0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        boundaries: Sequence[Tensor] | None = None,
        chunk_capacity: Sequence[float] | None = None,
        inputs_embeds: Tensor | None = None,
        **generic: Any,
    ) -> DNAChunkerMaskedLMOutput | tuple[Any, ...]:
        """Logits, and the losses.

        Args:
            input_ids, attention_mask, output_hidden_states, return_dict, boundaries, chunk_capacity, inputs_embeds,
                generic: as `DNAChunkerModel.forward`.
            labels: (B, L) int64, -100 where there is nothing to predict.
            loss_weights: (B, L) float, weight of each label; default 1.
            loss_normalizer: the sum of weights to divide the MLM loss by; default: over these labels. A training
                loop passes the sum over the global batch, and adds up the losses of its micro-batches.
            sequence_normalizer: the number of sequences to divide the ratio loss by; default B.
            ratio_loss_scale: factor on `config.ratio_loss_weight`, for a warm-up.

        Returns:
            DNAChunkerMaskedLMOutput; the losses are None without labels; logits are None with labels if
            `config.label_capacity` is set.
        """
        hidden, found, packing, index, shape = self.dnachunker.run_packed(
            input_ids, attention_mask, inputs_embeds=inputs_embeds, output_hidden_states=output_hidden_states,
            boundaries=boundaries, chunk_capacity=chunk_capacity, generic=generic,
        )  # fmt: skip
        config = self.config
        ratio = mlm = loss = rows = None
        if labels is None:
            logits = self._logits(hidden, packing)
        else:
            truth = take(labels, index, -100)
            weights = None if loss_weights is None else take(loss_weights, index, 0)
            lost = [stage.overflowed for stage in found.stages] if chunk_capacity is not None else []
            if config.label_capacity is not None:
                rows, truth, overflowed = labelled_rows(truth, math.ceil(config.label_capacity * labels.numel()))
                weights = None if weights is None else weights[rows]
                lost.append(overflowed)
            logits = self._logits(hidden, packing, rows)
            if loss_normalizer is None and self.dnachunker.context is not None:
                raise ValueError("windows split over ranks need a loss_normalizer: a rank sees only its own labels")
            mlm = mlm_loss(logits, truth, weights, loss_normalizer)
            sequences = None if sequence_normalizer is None else config.strands * sequence_normalizer
            ratio = total_ratio_loss(found.stages, config.target_ratios, config.ratio_boundaries, sequences)
            loss = void_where(lost, mlm + config.ratio_loss_weight * ratio_loss_scale * ratio)
        output = DNAChunkerMaskedLMOutput(
            loss=loss,
            logits=unpack(logits, index, shape) if rows is None else None,
            mlm_loss=mlm,
            ratio_loss=ratio,
            **describe(found, index, shape),
        )
        return output.to_tuple() if return_dict is False else output

    def _logits(self, hidden: Tensor, packing: Packing, rows: Tensor | None = None) -> Tensor:
        """hidden (T, D) -> (T, V) float32, or (P, V) for `rows` (P,) only; with `strand_symmetry` the strands' mean."""
        # outside autocast: sixteen columns cost nothing in float32, and bf16 logits would blur the loss
        with torch.autocast(hidden.device.type, enabled=False):
            logits = precise(through(self.lm_head, hidden if rows is None else hidden.index_select(0, rows)))
            if not self.config.strand_symmetry:
                return logits
            other = opposite(packing) if rows is None else opposite(packing)[rows]
            read = logits[other] if rows is None else precise(through(self.lm_head, hidden.index_select(0, other)))
            return (logits + complement_logits(read)) / 2


class _Classifier(DNAChunkerPreTrainedModel):
    """A linear head with `config.num_labels` outputs."""

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 2
        self.dnachunker = DNAChunkerModel(config)
        self.classifier = nn.Linear(config.width, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        boundaries: Sequence[Tensor] | None = None,
        inputs_embeds: Tensor | None = None,
        **generic: Any,
    ) -> DNAChunkerClassifierOutput | tuple[Any, ...]:
        """Class scores.

        Args:
            labels: as the class says.
            input_ids, attention_mask, output_hidden_states, return_dict, boundaries, inputs_embeds, generic: as
                `DNAChunkerModel.forward`.

        Returns:
            DNAChunkerClassifierOutput; loss is None without labels.
        """
        hidden, found, packing, index, shape = self.dnachunker.run_packed(
            input_ids, attention_mask, inputs_embeds=inputs_embeds, output_hidden_states=output_hidden_states,
            boundaries=boundaries, generic=generic,
        )  # fmt: skip
        loss, logits = self._scores(hidden, packing, index, shape, labels)
        output = DNAChunkerClassifierOutput(loss=loss, logits=logits, **describe(found, index, shape))
        return output.to_tuple() if return_dict is False else output

    def _scores(
        self, hidden: Tensor, packing: Packing, index: Tensor, shape: tuple[int, int], labels: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Loss and logits of the vectors (T, D) of packed bases; `index` and `shape` as from `run_packed`."""
        raise NotImplementedError


class DNAChunkerForSequenceClassification(_Classifier):
    """A linear head on the mean over a sequence's bases: logits (B, num_labels).

    Labels are (B,) int64 for classes, (B,) or (B, num_labels) float for regression, (B, num_labels) float for several
    labels. The default of `config.problem_type` follows from dtype and `num_labels`, as elsewhere in Hugging Face.
    """

    def _scores(
        self, hidden: Tensor, packing: Packing, index: Tensor, shape: tuple[int, int], labels: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        sums = hidden.new_zeros(len(packing.lengths), hidden.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, packing.sequence, hidden.float())
        means = (sums / packing.lengths.clamp_min(1).unsqueeze(-1))[: len(packing.real_lengths)]
        if self.config.strand_symmetry:
            means = sequence_means(means)
        logits = self.classifier(means.to(hidden.dtype)).float()
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return loss, logits


class DNAChunkerForTokenClassification(_Classifier):
    """A linear head on the vector of each base: logits (B, L, num_labels).

    Labels are (B, L) int64, -100 where a base has no label.
    """

    def _scores(
        self, hidden: Tensor, packing: Packing, index: Tensor, shape: tuple[int, int], labels: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        if self.config.strand_symmetry:
            hidden = base_means(hidden, packing)
        logits = self.classifier(hidden).float()
        loss = None if labels is None else mlm_loss(logits, take(labels, index, -100), None, None)
        return loss, unpack(logits, index, shape)


DNAChunkerConfig.register_for_auto_class()
DNAChunkerModel.register_for_auto_class("AutoModel")
DNAChunkerForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
DNAChunkerForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
DNAChunkerForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")

"""The Hugging Face classes: the bare model, the masked language model, the sequence classifier.

`save_pretrained` writes this package's files beside the weights, so that the Auto classes load a saved folder with
`trust_remote_code=True` where torch, transformers and safetensors are installed.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from .attention import TrunkLayer
from .configuration_dnachunker import DNAChunkerConfig
from .fixed_segmentation import token_starts
from .hierarchy import Hierarchy, HierarchyOutput
from .initialization import initialize
from .losses import labelled_rows, mlm_loss, total_ratio_loss, void_where
from .mixers import MIXERS
from .outputs import DNAChunkerClassifierOutput, DNAChunkerMaskedLMOutput, DNAChunkerOutput, describe_stages
from .packing import Packing, pack, take, unpack
from .strands import base_means, borders_on_both, both_strands, complement_logits, opposite, sequence_means

_AUTO_MAP = {
    "AutoConfig": "configuration_dnachunker.DNAChunkerConfig",
    "AutoModel": "modeling_dnachunker.DNAChunkerModel",
    "AutoModelForMaskedLM": "modeling_dnachunker.DNAChunkerForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_dnachunker.DNAChunkerForSequenceClassification",
}


class DNAChunkerPreTrainedModel(PreTrainedModel):
    """What the classes share: initialisation, saving with code, names of parameters without weight decay."""

    config_class = DNAChunkerConfig
    config: DNAChunkerConfig
    base_model_prefix = "dnachunker"
    supports_gradient_checkpointing = True
    _no_split_modules = [*(layer.__name__ for layer in MIXERS.values()), TrunkLayer.__name__]  # noqa: RUF012  (as the base class has it)

    def _init_weights(self, module: nn.Module) -> None:
        initialize(module, self.config)

    def auto_map(self) -> dict[str, str]:
        """The Auto classes that a saved folder offers, each with its file and class."""
        causal = self.config.causal  # modeling_causal.py adds the causal class; only that class saves the file
        return {name: where for name, where in _AUTO_MAP.items() if not (causal and name == "AutoModelForMaskedLM")}

    def save_pretrained(self, save_directory: str | os.PathLike[Any], *args: Any, **kwargs: Any) -> None:
        """As PreTrainedModel's, with an `auto_map` that names every Auto class, not only the one saved."""
        self.config.auto_map = self.auto_map()
        super().save_pretrained(save_directory, *args, **kwargs)

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
    """Embedding, hierarchy, final norm: token ids to one vector per base."""

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
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        boundaries: Sequence[Tensor] | None = None,
        keep_levels: bool = False,
        chunk_capacity: Sequence[float] | None = None,
    ) -> tuple[Tensor, HierarchyOutput, Packing, Tensor]:
        """The network on packed bases, for heads that need no (B, L, D) tensor.

        Args: as `forward`.

        Returns:
            hidden (T, D) after the final norm; the hierarchy's output; the packing; and (T,) int64, the index of each
            packed base in the flattened (B*L,) input. With `strand_symmetry` the packing holds both strands, and the
            bases of the other strand have index B*L.

        Raises:
            ValueError: input_ids not (B, L), an attention_mask of another shape, boundaries that do not match stages
                and shape, or a chunk_capacity that is not a number in (0, 1] for each stage.
        """
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must be (B, L); they are {tuple(input_ids.shape)}")
        present = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask != 0
        if present.shape != input_ids.shape:
            raise ValueError(f"attention_mask is {tuple(present.shape)}, input_ids are {tuple(input_ids.shape)}")
        if boundaries is not None and (
            len(boundaries) != self.config.stages or any(b.shape != input_ids.shape for b in boundaries)
        ):
            raise ValueError(f"boundaries must be {self.config.stages} bool tensors of the shape of input_ids")
        if chunk_capacity is not None and (
            len(chunk_capacity) != self.config.stages or any(not 0 < share <= 1 for share in chunk_capacity)
        ):
            raise ValueError(f"chunk_capacity is {chunk_capacity}; it needs a number in (0, 1] per stage, or None")
        nowhere = input_ids.numel()
        if self.config.strand_symmetry:
            input_ids, present = both_strands(input_ids, present)
        packing, index = pack(present, wait=chunk_capacity is None)
        ids = take(input_ids, index, self.config.pad_token_id)
        index = index.clamp_max(nowhere)  # boundaries, labels and outputs are of the given strand only
        given = None
        if boundaries is not None:
            given = [take(b.bool(), index, False) for b in boundaries]
            if self.config.strand_symmetry:
                given = [borders_on_both(b, packing) for b in given]
        elif self.token_starts is not None:
            starts = self.token_starts(ids, packing)
            given = [starts] + [torch.ones_like(starts)] * (self.config.stages - 1)
        masked = ids == self.config.mask_token_id
        found = self.hierarchy(self.embedding(ids), packing, masked, given, keep_levels, chunk_capacity)
        if self.config.strand_symmetry and keep_levels:
            found = replace(found, levels=tuple(base_means(level, packing) for level in found.levels))
        return self.norm(found.hidden), found, packing, index

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        boundaries: Sequence[Tensor] | None = None,
        chunk_capacity: Sequence[float] | None = None,
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

        Returns:
            DNAChunkerOutput.
        """
        keep = bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        hidden, found, packing, index = self.run_packed(input_ids, attention_mask, boundaries, keep, chunk_capacity)
        shape = (input_ids.shape[0], input_ids.shape[1])
        if self.config.strand_symmetry:
            hidden = base_means(hidden, packing)
        output = DNAChunkerOutput(
            last_hidden_state=unpack(hidden, index, shape),
            hidden_states=levels_at_bases(found, index, shape) if keep else None,
            **describe_stages(found.stages, index, shape),
        )
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
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,
        loss_normalizer: Tensor | float | None = None,
        sequence_normalizer: Tensor | float | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        boundaries: Sequence[Tensor] | None = None,
        chunk_capacity: Sequence[float] | None = None,
    ) -> DNAChunkerMaskedLMOutput | tuple[Any, ...]:
        """Logits, and the losses.

        Args:
            input_ids, attention_mask, output_hidden_states, return_dict, boundaries, chunk_capacity: as
                `DNAChunkerModel.forward`.
            labels: (B, L) int64, -100 where there is nothing to predict.
            loss_weights: (B, L) float, weight of each label; default 1.
            loss_normalizer: the sum of weights to divide the MLM loss by; default: over these labels. A training
                loop passes the sum over the global batch, and adds up the losses of its micro-batches.
            sequence_normalizer: the number of sequences to divide the ratio loss by; default B.

        Returns:
            DNAChunkerMaskedLMOutput; loss and mlm_loss are None without labels; logits are None with labels if
            `config.label_capacity` is set.
        """
        keep = bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        hidden, found, packing, index = self.dnachunker.run_packed(
            input_ids, attention_mask, boundaries, keep, chunk_capacity
        )
        config, shape = self.config, (input_ids.shape[0], input_ids.shape[1])
        sequences = None if sequence_normalizer is None else config.strands * sequence_normalizer
        ratio = total_ratio_loss(found.stages, config.target_ratios, config.ratio_boundaries, sequences)
        mlm = loss = rows = None
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
            mlm = mlm_loss(logits, truth, weights, loss_normalizer)
            loss = void_where(lost, mlm + config.ratio_loss_weight * ratio)
        output = DNAChunkerMaskedLMOutput(
            loss=loss,
            logits=unpack(logits, index, shape) if rows is None else None,
            mlm_loss=mlm,
            ratio_loss=ratio,
            hidden_states=levels_at_bases(found, index, shape) if keep else None,
            **describe_stages(found.stages, index, shape),
        )
        return output.to_tuple() if return_dict is False else output

    def _logits(self, hidden: Tensor, packing: Packing, rows: Tensor | None = None) -> Tensor:
        """hidden (T, D) -> (T, V) float32, or (P, V) for `rows` (P,) only; with `strand_symmetry` the strands' mean."""
        # outside autocast: sixteen columns cost nothing in float32, and bf16 logits would blur the loss
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.lm_head(hidden if rows is None else hidden.index_select(0, rows)).float()
            if not self.config.strand_symmetry:
                return logits
            across = opposite(packing)
            other = logits[across] if rows is None else self.lm_head(hidden.index_select(0, across[rows])).float()
            return (logits + complement_logits(other)) / 2


class DNAChunkerForSequenceClassification(DNAChunkerPreTrainedModel):
    """A linear head on the mean over a sequence's bases; losses by `problem_type` as everywhere in Hugging Face."""

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 2
        self.dnachunker = DNAChunkerModel(config)
        self.classifier = nn.Linear(config.width, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        boundaries: Sequence[Tensor] | None = None,
    ) -> DNAChunkerClassifierOutput | tuple[Any, ...]:
        """Class scores.

        Args:
            labels: (B,) int64 for classes, (B,) or (B, num_labels) float for regression, (B, num_labels) float for
                several labels; the default of `config.problem_type` follows from their dtype and `num_labels`.

        Returns:
            DNAChunkerClassifierOutput.
        """
        keep = bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        hidden, found, packing, index = self.dnachunker.run_packed(input_ids, attention_mask, boundaries, keep)
        sums = hidden.new_zeros(len(packing.lengths), hidden.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, packing.sequence, hidden.float())
        means = (sums / packing.lengths.clamp_min(1).unsqueeze(-1))[: len(packing.real_lengths)]
        if self.config.strand_symmetry:
            means = sequence_means(means)
        logits = self.classifier(means.to(hidden.dtype)).float()
        shape = (input_ids.shape[0], input_ids.shape[1])
        output = DNAChunkerClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=levels_at_bases(found, index, shape) if keep else None,
            **describe_stages(found.stages, index, shape),
        )
        return output.to_tuple() if return_dict is False else output

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind: str | None = self.config.problem_type
        if kind is None:
            whole = not labels.is_floating_point()
            several = "single_label_classification" if whole else "multi_label_classification"
            kind = "regression" if self.num_labels == 1 else several
        if kind == "regression":
            return F.mse_loss(logits.view(labels.shape), labels.float())
        if kind == "single_label_classification":
            return F.cross_entropy(logits, labels.flatten())
        return F.binary_cross_entropy_with_logits(logits, labels.float())


def levels_at_bases(found: HierarchyOutput, index: Tensor, shape: tuple[int, int]) -> tuple[Tensor, ...]:
    """Hidden states of every level, (B, L, D) each."""
    return tuple(unpack(level, index, shape) for level in found.levels)


DNAChunkerConfig.register_for_auto_class()
DNAChunkerModel.register_for_auto_class("AutoModel")
DNAChunkerForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
DNAChunkerForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

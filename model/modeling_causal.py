"""The causal model: the same network reading forward only, to predict the next base and to write new sequence."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_dnachunker import DNAChunkerConfig
from .decoding_state import Recurrence
from .linear import through
from .losses import mlm_loss, total_ratio_loss, void_where
from .modeling_dnachunker import DNAChunkerModel, DNAChunkerPreTrainedModel
from .outputs import DNAChunkerCausalLMOutput, describe
from .packing import take, unpack


class DNAChunkerForCausalLM(DNAChunkerPreTrainedModel):
    """Logits for the base after each base, next-base loss plus ratio loss; needs `config.causal`.

    The logits at position t depend only on the tokens up to t: a boundary at t depends on positions t-1 and t, a
    chunk's vector is that of its first position, and the trunk sees a chunk and the chunks before it.

    Raises:
        ValueError: `config.causal` is not set.
    """

    def __init__(self, config: DNAChunkerConfig) -> None:
        super().__init__(config)
        if not config.causal:
            raise ValueError("DNAChunkerForCausalLM needs a config with causal=True: this one reads both ways")
        self.dnachunker = DNAChunkerModel(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    def auto_map(self) -> dict[str, str]:
        return super().auto_map() | {"AutoModelForCausalLM": "modeling_causal.DNAChunkerForCausalLM"}

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
    ) -> DNAChunkerCausalLMOutput | tuple[Any, ...]:
        """Logits, and the losses.

        Args:
            input_ids: (B, L) int64; pretraining starts every window with [BOS].
            labels: (B, L) int64, aligned with the inputs as everywhere in Hugging Face: the loss compares the logits
                at t with the label at t+1. -100 where there is nothing to predict.
            loss_weights: (B, L) float, weight of each label; default 1.
            attention_mask, loss_normalizer, sequence_normalizer, ratio_loss_scale, output_hidden_states, return_dict,
                boundaries, chunk_capacity, inputs_embeds, generic: as `DNAChunkerForMaskedLM.forward`. Given
                boundaries may depend on later bases.

        Returns:
            DNAChunkerCausalLMOutput; the losses are None without labels.
        """
        hidden, found, packing, index, shape = self.dnachunker.run_packed(
            input_ids, attention_mask, inputs_embeds=inputs_embeds, output_hidden_states=output_hidden_states,
            boundaries=boundaries, chunk_capacity=chunk_capacity, generic=generic,
        )  # fmt: skip
        config = self.config
        with torch.autocast(hidden.device.type, enabled=False):  # as `DNAChunkerForMaskedLM`
            logits = through(self.lm_head, hidden).float()
        ratio = next_base = loss = None
        if labels is not None:
            following = packing.shift(take(labels, index, -100), -100, back=True)
            weights = None if loss_weights is None else packing.shift(take(loss_weights, index, 0), 0, back=True)
            next_base = mlm_loss(logits, following, weights, loss_normalizer)
            ratio = total_ratio_loss(found.stages, config.target_ratios, config.ratio_boundaries, sequence_normalizer)
            lost = [stage.overflowed for stage in found.stages] if chunk_capacity is not None else []
            loss = void_where(lost, next_base + config.ratio_loss_weight * ratio_loss_scale * ratio)
        output = DNAChunkerCausalLMOutput(
            loss=loss,
            logits=unpack(logits, index, shape),
            next_base_loss=next_base,
            ratio_loss=ratio,
            **describe(found, index, shape),
        )
        return output.to_tuple() if return_dict is False else output

    def recurrence(self, count: int) -> Recurrence:
        """Memory of `count` empty sequences; its `step` reads one token of each and returns the logits of the next.

        The logits are those of `forward` up to rounding. Only the trunk's attention costs more as sequences grow.
        Evaluation only: no gradients.
        """
        body = self.dnachunker
        return Recurrence(body.embedding, body.hierarchy, body.norm, self.lm_head, count)


DNAChunkerForCausalLM.register_for_auto_class("AutoModelForCausalLM")

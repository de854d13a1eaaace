"""Masks for training with Hugging Face's Trainer: as in pretraining, only bases are selected and drawn."""

from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling

from .alphabet import A_ID, T_ID


class DNADataCollator(DataCollatorForLanguageModeling):
    """Pads, and selects a share `mlm_probability` of the A, C, G and T of a batch as labels.

    Of the selected bases, `mask_replace_prob` become [MASK], `random_replace_prob` a random base of ACGT, and the
    others stay. The collator of Hugging Face selects N too, and draws from the whole vocabulary, special tokens
    included. Not for causal models: give them labels that equal the inputs.
    """

    def torch_mask_tokens(self, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """inputs (B, L) int64 -> corrupted inputs and labels, -100 where nothing is to be predicted."""
        inputs = inputs.clone()
        chance, kind = torch.rand((2, *inputs.shape), generator=self.generator)
        selected = (chance < self.mlm_probability) & (inputs >= A_ID) & (inputs <= T_ID)
        labels = torch.where(selected, inputs, -100)
        masked = selected & (kind < self.mask_replace_prob)
        drawn = selected & ~masked & (kind < self.mask_replace_prob + self.random_replace_prob)
        inputs[masked] = self.tokenizer.mask_token_id
        inputs[drawn] = torch.randint(A_ID, T_ID + 1, (int(drawn.sum()),), generator=self.generator)
        return inputs, labels

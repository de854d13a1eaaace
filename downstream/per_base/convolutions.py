"""The convolutional baseline: one-hot bases, residual convolutions with growing dilation, a linear head."""

import math
from types import SimpleNamespace

from torch import Tensor, nn


class ConvolutionalSegmenter(nn.Module):
    """Token ids to class scores per base; layer n has filters of `kernel` bases that lie 2^n bases apart."""

    def __init__(self, vocabulary: int, classes: int, *, width: int, layers: int, kernel: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)  # a linear map of one-hot letters
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding="same", dilation=2**layer) for layer in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """input_ids (B, L) int64 and attention_mask (B, L) bool -> `.logits` (B, L, classes); pads change nothing."""
        present = attention_mask.unsqueeze(-1)
        x = self.embedding(input_ids)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            inner = nn.functional.gelu(norm(x)) * present
            x = x + convolution(inner.transpose(1, 2)).transpose(1, 2)
        return SimpleNamespace(logits=self.classifier(self.norm(x)))

    def no_weight_decay_parameter_names(self) -> set[str]:
        """As the exported models have it: norms and the embedding."""
        return {name for name, _ in self.named_parameters() if "norm" in name or "embedding" in name}


def width_of_size(parameters: int, layers: int, kernel: int) -> int:
    """The width at which the convolutions have about as many parameters as a model with `parameters`."""
    return max(8, round(math.sqrt(parameters / (layers * kernel))))

"""Tensors and models that the sections measure with."""

from typing import Any

import torch
from torch import Tensor

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.packing import Packing

SMALLEST = {"width": 16, "encoder_layers": (1, 0), "decoder_layers": (0, 0), "trunk_layers": 1, "num_heads": 2}
SMALLEST |= {"state_size": 4, "expand": 1}
# With mask protection, boundaries every 3 and 9 bases give 0.51 and 0.31 chunks a base, as in a healthy training run.
STRIDES = (3, 9)
CAPACITIES = {"chunk_capacity": (0.54, 0.34), "label_capacity": 0.14}  # a little above 0.51, 0.31 and 12 % masks


class Given(torch.nn.Module):
    """Stands in for a router's module `probability`: returns given probabilities."""

    def __init__(self, probability: Tensor) -> None:
        super().__init__()
        self.values = probability

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        return self.values


def packed(lengths: list[int], device: torch.device) -> Packing:
    borders = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    return Packing(borders, sum(lengths), max(lengths))


def scan_inputs(packing: Packing, channels: int, states: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs of `gated_scan` that require gradients. `rows` holds B and C side by side, as a layer makes them.

    Args:
        dtype: of u, raw and z; rows, A, skip and dt_bias are float32.
    """
    device, total = packing.cu_seqlens.device, packing.total
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(kind).requires_grad_()

    exact = torch.float32
    rates = -torch.arange(1.0, states + 1, device=device).repeat(2, channels, 1)
    return {
        "u": draw(2, total, channels),
        "raw": draw(2, total, channels),
        "rows": draw(2, total, 2 * states, kind=exact),
        "z": draw(total, channels),
        "A": rates.requires_grad_(),
        "skip": draw(2, channels, kind=exact),
        "dt_bias": (draw(2, channels, kind=exact).detach() - 4).requires_grad_(),
    }


def batch(count: int, length: int, device: torch.device, seed: int = 0) -> dict[str, Any]:
    """Random bases (count, length), 12 % of them masked and labelled, with boundaries at fixed positions."""
    generator = torch.Generator(device).manual_seed(seed)
    truth = torch.randint(7, 11, (count, length), generator=generator, device=device)
    hidden = torch.rand(truth.shape, generator=generator, device=device) < 0.12
    here = torch.arange(length, device=device)
    return {
        "input_ids": torch.where(hidden, 3, truth),
        "labels": torch.where(hidden, truth, -100),
        "boundaries": [(here % stride == 0).expand(count, length) for stride in STRIDES],
        "loss_normalizer": 0.12 * truth.numel(),
        "sequence_normalizer": count,
    }


def network(smoke: bool, device: torch.device, dtype: torch.dtype, **changes: Any) -> DNAChunkerForMaskedLM:
    """The default (172M) model with random weights; in a smoke run the smallest possible model."""
    torch.manual_seed(0)
    sizes = {**SMALLEST, "scan_backend": "triton"} if smoke else {}
    return DNAChunkerForMaskedLM(DNAChunkerConfig(**{**sizes, **changes})).to(device, dtype)

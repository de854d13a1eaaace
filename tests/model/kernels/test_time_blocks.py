"""Layers that read long windows block by block give what they give on whole windows: values and every gradient."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dnachunker.model.bimamba import BiMambaLayer
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.packing import Packing

NETWORK = {"width": 8, "num_heads": 2, "state_size": 3, "encoder_layers": [1, 1], "decoder_layers": [1, 1]}


def layer_with(block: int, dtype: torch.dtype, **changes: object) -> BiMambaLayer:
    """A layer with random weights, the same whatever the block; states of it last for many positions."""
    torch.manual_seed(0)
    layer = BiMambaLayer(DNAChunkerConfig(**{**NETWORK, **changes}, layer_block=block))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    for way in (layer.forward_direction, layer.backward_direction):
        if way is not None:
            nn.init.normal_(way.dt_proj.bias, mean=-3)
    return layer.to(dtype)


def found(layer: BiMambaLayer, x: Tensor, packing: Packing) -> list[Tensor]:
    """The layer's output and all gradients."""
    x = x.clone().requires_grad_()
    y = layer(x, packing)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype))
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]  # type: ignore[list-item]


def furthest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference, relative to the largest value of its tensor, or to 1."""
    scales = [max(1.0, float(b.abs().max())) for b in theirs]
    pairs = zip(ours, theirs, scales, strict=True)
    return max(float((a.double() - b.double()).abs().max()) / scale for a, b, scale in pairs)


@settings(max_examples=20, deadline=None, derandomize=True)
@example(lengths=[23], block=1, dtype=torch.float64, changes={"conv_width": 7})
@example(lengths=[4, 0, 5, 8], block=4, dtype=torch.float64, changes={})  # windows that begin where blocks begin
@example(lengths=[70], block=64, dtype=torch.float32, changes={"causal": True})
@given(
    lengths=st.lists(st.integers(0, 40) | st.integers(0, 2), min_size=1, max_size=4).filter(any),
    block=st.integers(1, 5) | st.integers(6, 50),
    dtype=st.sampled_from((torch.float64, torch.float64, torch.float32)),
    changes=st.fixed_dictionaries(
        {}, optional={"causal": st.just(True), "conv_width": st.sampled_from((1, 2, 7)), "state_size": st.just(1)}
    ),
)
def test_blocks_of_any_length_change_nothing(
    lengths: list[int], block: int, dtype: torch.dtype, changes: dict[str, object]
) -> None:
    packing = Packing(torch.tensor([0, *lengths]).cumsum(0).int(), sum(lengths))
    x = torch.randn(packing.total, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    ours, theirs = (found(layer_with(size, dtype, **changes), x, packing) for size in (block, 0))
    assert furthest(ours, theirs) <= {torch.float64: 1e-10, torch.float32: 1e-5}[dtype]


def test_in_bf16_blocks_are_as_close_to_the_truth_as_the_whole_layer() -> None:
    packing = Packing(torch.tensor([0, 150, 400]).int(), 400)
    x = torch.randn(packing.total, 8, generator=torch.Generator().manual_seed(1))
    truth = found(layer_with(0, torch.float32), x, packing)
    with torch.autocast("cpu", torch.bfloat16):
        whole, blocks = (found(layer_with(size, torch.float32), x, packing) for size in (0, 32))
    assert furthest(blocks, truth) <= 1.5 * furthest(whole, truth) < 0.05


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("changes", [{}, {"strand_symmetry": True}], ids=str)
def test_a_network_trains_in_blocks_as_on_whole_windows(changes: dict[str, object], checkpointing: bool) -> None:
    ids = torch.randint(7, 11, (2, 90), generator=torch.Generator().manual_seed(0))
    ids[:, ::5], ids[1, 70:] = 3, 4
    labels = torch.where(ids == 3, 8, -100)
    both = []
    for block in (0, 16):
        torch.manual_seed(0)
        model = DNAChunkerForMaskedLM(DNAChunkerConfig(**NETWORK, **changes, trunk_layers=1, layer_block=block)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        loss = model(ids, labels=labels).loss
        loss.backward()
        with torch.no_grad():
            output = model(ids)
        outputs = [output.logits, *output.boundary_probabilities]
        both.append([loss.detach(), *outputs, *(parameter.grad for parameter in model.parameters())])
    assert furthest(*both) <= 1e-5


def test_windows_no_longer_than_a_block_are_computed_whole() -> None:
    ids = torch.randint(7, 11, (3, 64), generator=torch.Generator().manual_seed(0))
    losses = []
    for block in (0, 64):  # the pass holds three blocks of positions, but no window does
        torch.manual_seed(0)
        model = DNAChunkerForMaskedLM(DNAChunkerConfig(**NETWORK, trunk_layers=1, layer_block=block))
        losses.append(float(model(ids, labels=ids).loss.detach()))
    assert losses[0] == losses[1]

"""The other mixers: as large as BiMamba, no wider reach than stated, independent of batch-mates, saved and loaded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import flops_per_base, mixer_layer_parameters, parameters
from dnachunker.model.initialization import initialize
from dnachunker.model.mixers import MIXERS, local_attention
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.packing import Packing

OTHERS = ("transformer", "conv")
LENGTHS = st.lists(st.integers(0, 90), min_size=1, max_size=4).filter(any)


def packing_of(lengths: list[int]) -> Packing:
    return Packing(torch.tensor([0, *lengths]).cumsum(0).int(), sum(lengths))


def layer_of(mixer: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = DNAChunkerConfig(width=32, num_heads=2, mixer=mixer, local_window=8)
    layer = MIXERS[mixer](config)
    layer.apply(lambda module: initialize(module, config))
    with torch.no_grad():  # initial values are so small that a leak could hide
        for parameter in layer.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return layer


@pytest.mark.parametrize("width", [128, 640])
@pytest.mark.parametrize("mixer", OTHERS)
def test_a_layer_is_as_large_as_bimamba(mixer: str, width: int) -> None:
    config = DNAChunkerConfig(width=width, num_heads=4, trunk_layers=2, mixer=mixer)
    with torch.device("meta"):
        model = DNAChunkerForMaskedLM(config)
    assert sum(p.numel() for p in MIXERS[mixer](config).parameters()) == mixer_layer_parameters(config)
    assert sum(parameters(config).values()) == sum(p.numel() for p in model.parameters())
    bimamba = DNAChunkerConfig(width=width, num_heads=4, trunk_layers=2)
    assert mixer_layer_parameters(config) == pytest.approx(mixer_layer_parameters(bimamba), rel=0.005)
    ours, theirs = (flops_per_base(c, 1024, (0.5, 0.3)).total for c in (config, bimamba))
    assert ours == pytest.approx(theirs, rel=0.3)  # scores weigh more at small widths


@settings(max_examples=10, deadline=None)
@given(LENGTHS, st.integers(1, 20), st.integers(0, 99))
def test_local_attention_is_attention_with_a_band(lengths: list[int], window: int, seed: int) -> None:
    torch.manual_seed(seed)
    q, k, v = (torch.randn(sum(lengths), 2, 4) for _ in range(3))
    expected = []
    for a, b, c in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        place = torch.arange(len(a))
        scores = torch.einsum("qhd,khd->hqk", a, b) / 2
        scores = scores.masked_fill((place[:, None] - place).abs() > window, -torch.inf)
        expected.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), c))
    result = local_attention(q, k, v, packing_of(lengths), window)
    torch.testing.assert_close(result, torch.cat(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mixer", MIXERS)
@settings(max_examples=6, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_packed_sequences_do_not_see_one_another(mixer: str, lengths: list[int], seed: int) -> None:
    layer = layer_of(mixer)
    x = torch.randn(sum(lengths), 32, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        together = layer(x, packing_of(lengths))
        alone = torch.cat([layer(part, packing_of([len(part)])) for part in x.split(lengths) if len(part)])
    assert (together - x).abs().max() > 0.01
    assert (together - alone).abs().max() <= 1e-6 * max(1.0, float(alone.abs().max()))


@pytest.mark.parametrize(("mixer", "reach"), [("transformer", 8), ("conv", 36)])
def test_a_layer_sees_both_sides_and_no_farther_than_it_says(mixer: str, reach: int) -> None:
    layer, x = layer_of(mixer), torch.randn(101, 32)
    with torch.no_grad():
        before = layer(x, packing_of([101]))
        x[50] += torch.randn(32)
        changed = (layer(x, packing_of([101])) - before).abs().amax(1) > 1e-5
    seen = changed.nonzero().squeeze(1)
    assert 50 - reach <= seen.min() < 50 < seen.max() <= 50 + reach


def masked_ids(shape: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.where(torch.rand(shape, generator=generator) < 0.12, 3, torch.randint(7, 11, shape))


@pytest.mark.parametrize("mixer", OTHERS)
def test_the_whole_network_trains_and_is_saved_with_it(mixer: str, tmp_path) -> None:
    torch.manual_seed(0)
    sizes = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 1, "num_heads": 2}
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**sizes, mixer=mixer))
    ids = masked_ids((2, 70))
    ids[1, 40:] = 4
    labels = torch.where(ids == 3, 7, -100)
    model.gradient_checkpointing_enable()
    model.train()
    model(ids, labels=labels).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        logits = model(ids).logits
        assert (logits[1, :40] - model(ids[1:, :40]).logits[0]).abs().max() <= 1e-6
        model.save_pretrained(tmp_path)
        assert torch.equal(DNAChunkerForMaskedLM.from_pretrained(tmp_path).eval()(ids).logits, logits)

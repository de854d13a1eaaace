"""Products with weights are oneDNN's where that is faster, and torch's elsewhere; both give the same numbers."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.linear import linear, through
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

needs_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available(),
    reason="needs oneDNN and AVX-512",
)


class Operations(TorchDispatchMode):
    """Counts calls of oneDNN's product."""

    onednn = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.onednn += function.name() == "mkldnn::_linear_pointwise"
        return function(*arguments, **(options or {}))


def gradients(x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    """The product, its gradients, and the gradients of one of these."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = linear(x, weight)
    dx, dweight = torch.autograd.grad(y, (x, weight), grad.to(y.dtype), create_graph=True)
    (second,) = torch.autograd.grad(dx.square().sum(), weight)
    return [tensor.detach() for tensor in (y, dx, dweight, second)]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 150), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 999))
def test_products_and_gradients(rows: int, inputs: int, outputs: int, sliced: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, inputs + 3, generator=generator)
    x = wide[:, 2:-1] if sliced else wide[:, 3:].contiguous()
    weight, grad = torch.randn(outputs, inputs, generator=generator), torch.randn(rows, outputs, generator=generator)
    for found, exact in zip(gradients(x, weight, grad), gradients(x.double(), weight.double(), grad), strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()) + 1e-6)


@needs_avx512
def test_float32_on_a_cpu_goes_to_onednn() -> None:
    layer, x = nn.Linear(80, 70, bias=False), torch.randn(90, 80, requires_grad=True)
    with Operations() as seen:
        through(layer, x).sum().backward()
    assert seen.onednn == 3, "the product and the gradients of both factors"
    with Operations() as seen:
        through(layer, x[:0])
        through(layer, x[:63])  # of few rows MKL is faster
        through(layer.double(), x.double())
        layer.float()
        with torch.backends.mkldnn.flags(enabled=False):
            through(layer, x)
        with torch.autocast("cpu", torch.bfloat16):
            assert through(layer, x).dtype == torch.bfloat16
    assert seen.onednn == 0


class Shown(torch.Tensor):
    """A weight of another kind, as quantisation makes them: it shows float32 and stores something else."""


def test_layers_that_are_more_than_a_product_are_called() -> None:
    x = torch.randn(90, 80)
    biased, hooked, shown = (nn.Linear(80, 70, bias=bias) for bias in (True, False, False))
    hooked.register_forward_hook(lambda layer, inputs, output: output + 1)
    shown.weight = nn.Parameter(shown.weight.detach().as_subclass(Shown), requires_grad=False)
    with Operations() as seen:
        for layer in (biased, hooked, shown):
            assert torch.equal(through(layer, x), layer(x))
    assert seen.onednn == 0


def test_torchs_dynamic_quantisation_finds_the_layers() -> None:
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(width=32, num_heads=2, trunk_layers=1)).eval()
    layers = [name for name, layer in model.named_modules() if type(layer) is nn.Linear]
    assert {"lm_head", "dnachunker.hierarchy.trunk.layers.0.qkv"} <= set(layers)
    assert any(name.endswith("in_proj") for name in layers)


@needs_avx512
def test_a_step_of_the_model_is_the_same_without_onednn() -> None:
    torch.manual_seed(0)
    layers = {"encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 2}
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(width=32, num_heads=2, **layers))
    ids = torch.randint(7, 11, (2, 60))
    cuts = [torch.rand(ids.shape) < share for share in (0.5, 0.3)]  # a probability near 1/2 may fall on either side
    found = []
    for enabled in (True, False):
        with torch.backends.mkldnn.flags(enabled=enabled):
            model.zero_grad()
            loss = model(ids, labels=ids, boundaries=cuts).loss
            loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()) + 1e-9)

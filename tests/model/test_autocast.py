"""Under bf16 autocast, matrix products are rounded; what decides time steps, decays, boundaries and norms is not."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dnachunker.model import cast_weights
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

SMALL = {
    "width": 16, "num_heads": 2, "trunk_layers": 1, "state_size": 4, "encoder_layers": (1, 1), "decoder_layers": (1, 1),
}  # fmt: skip
PRECISE = ("A_log", ".D", "dt_proj.bias", "norm.weight", "query", "key", "lm_head.weight")


def network(backend: str, causal: bool) -> DNAChunkerForMaskedLM | DNAChunkerForCausalLM:
    torch.manual_seed(0)
    config = DNAChunkerConfig(**SMALL, scan_backend=backend, causal=causal)
    built = DNAChunkerForCausalLM(config) if causal else DNAChunkerForMaskedLM(config)
    with torch.no_grad():  # values with digits to lose, and time steps so long that the decays matter
        for name, parameter in built.named_parameters():
            parameter.add_((0.5 if name.endswith(PRECISE) else 0.3) * torch.randn_like(parameter))
    return built.train()


@pytest.mark.parametrize(("backend", "causal"), [("reference", False), ("cpu", False), ("cpu", True)])
def test_only_what_matrix_products_read_is_rounded(backend: str, causal: bool) -> None:
    model = network(backend, causal)
    ids = torch.randint(7, 11, (2, 40), generator=torch.Generator().manual_seed(1))
    ids[:, 5:9] = 3
    cuts = [torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.5 for _ in range(2)]

    def outputs() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            found = model(ids, boundaries=cuts)
        return torch.cat([found.logits.flatten(), *(p.flatten() for p in found.boundary_probabilities)])

    exact = outputs()
    assert exact.dtype == torch.float32
    rounded = []
    for name, parameter in model.named_parameters():
        if "decoders" in name:
            continue  # as the encoders
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(kept.bfloat16())
            if torch.equal(outputs(), exact):
                rounded.append(name)
            parameter.copy_(kept)
    assert not [name for name in rounded if name.endswith(PRECISE)]
    products = [name for name in rounded if name.endswith(("proj.weight", "qkv.weight", "mlp_in.weight"))]
    assert len(products) > 6, "autocast was not on"


def test_gradients_are_whole() -> None:
    model = network("cpu", causal=False)
    ids = torch.randint(7, 11, (2, 40))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}


class _Casts(TorchDispatchMode):
    """Counts the operations that cast tensors."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.count += str(function).startswith(("aten._foreach_copy_", "aten._to_copy"))
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("frozen", [(), ("qkv.weight", "mlp_out.weight")], ids=["all trained", "some frozen"])
def test_a_layer_casts_its_weights_together_with_the_bits_of_autocast(frozen: tuple[str, ...]) -> None:
    ids = torch.randint(7, 11, (2, 40), generator=torch.Generator().manual_seed(1))

    def trained() -> tuple[list[torch.Tensor | None], int]:
        model = network("cpu", causal=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.endswith(frozen or "none"))
        with _Casts() as casts:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(ids, labels=ids).loss
            loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in model.parameters())], casts.count

    ours, few = trained()
    with mock.patch.object(cast_weights, "is_plain", return_value=False):
        theirs, many = trained()
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    assert few == many - 2 * 3 + len(frozen), "one cast for four weights, and one for their gradients"


def test_a_layer_that_is_more_than_a_product_is_called_under_autocast() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model, ids = network("cpu", causal=False), torch.randint(7, 11, (2, 40))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = model(ids).logits
        layer = model.dnachunker.hierarchy.trunk.layers[0]
        layer.mlp_out.__class__ = Doubled
        doubled = model(ids).logits
        layer.mlp_out.__class__ = nn.Linear
        layer.mlp_out.register_forward_hook(lambda module, inputs, output: 2 * output)
        hooked = model(ids).logits
    assert not torch.equal(before, doubled)
    assert torch.equal(doubled, hooked)

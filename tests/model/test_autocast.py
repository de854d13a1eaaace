"""Under bf16 autocast, matrix products are rounded; what decides time steps, decays, boundaries and norms is not."""

import pytest
import torch

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

"""The arithmetic of costs agrees with the model itself."""

import pytest
import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.context_group import ContextGroup
from dnachunker.model.cost import activation_bytes, bimamba_layer_parameters, flops_per_base, group_bytes, parameters
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM


@pytest.mark.parametrize(
    "changes",
    [{}, {"width": 96, "encoder_layers": (1, 3), "num_heads": 6, "trunk_layers": 2}, {"qk_norm": True}],
)
def test_parameters_by_component_add_up_to_the_model(changes: dict[str, object]) -> None:
    config = DNAChunkerConfig(**changes)
    with torch.device("meta"):
        model = DNAChunkerForMaskedLM(config)
    counts = parameters(config)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["trunk"] == sum(p.numel() for p in model.dnachunker.hierarchy.trunk.parameters())
    assert bimamba_layer_parameters(DNAChunkerConfig()) == 2_803_840
    if changes == {"qk_norm": True}:
        assert sum(counts.values()) - sum(parameters(DNAChunkerConfig()).values()) == 30 * 2 * 64


def test_flops_of_the_paper_run() -> None:
    config = DNAChunkerConfig()
    assert flops_per_base(config, 8192, (0.56, 0.31)).total == pytest.approx(560e6, rel=0.03)
    assert flops_per_base(config, 8192, (0.3, 0.1)).total < flops_per_base(config, 8192, (0.56, 0.31)).total
    with pytest.raises(ValueError, match="stage"):
        flops_per_base(config, 8192, (0.5,))


class Twins(ContextGroup):
    """Rank 0 of ranks that all hold the same; counts the bytes that one of them sends in forward passes."""

    sent = 0

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        Twins.sent += (self.size - 1) * values.nbytes
        return torch.stack([values] * self.size)

    def exchange(self, values: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        Twins.sent += sum(sent[1:]) * values[:1].nbytes
        return torch.cat([values[:count] for count in received])


@pytest.mark.parametrize(
    ("changes", "ranks"),
    [
        ({"mixer": "bimamba"}, 1), ({"mixer": "transformer"}, 1), ({"mixer": "conv"}, 1),
        ({"strand_symmetry": True}, 1), ({"qk_norm": True}, 1), ({}, 2), ({"qk_norm": True}, 3), ({}, 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_estimate_is_what_torch_keeps(changes: dict[str, object], ranks: int, checkpointing: bool) -> None:
    config = DNAChunkerConfig(width=96, num_heads=6, trunk_layers=3, **changes)
    model = DNAChunkerForMaskedLM(config).train()
    model.dnachunker.context = Twins(0, ranks) if ranks > 1 else None
    Twins.sent = 0
    if checkpointing:
        model.gradient_checkpointing_enable()
    bases = 1024
    ids = torch.randint(7, 11, (1, bases))
    every = [(torch.arange(bases) % stride == 0).expand(1, bases) for stride in (3, 9)]
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}  # by address; holding the tensors keeps an address from being used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(ids, labels=ids, boundaries=every, loss_normalizer=bases)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    chunks = [float(count.sum()) / bases for count in output.chunk_counts]
    sent = group_bytes(config, 1, bases, chunks, ranks=ranks, value_bytes=4)  # forward and backward send the same
    assert 2 * Twins.sent == pytest.approx(sent, rel=0.02)
    estimate = activation_bytes(config, bases, chunks, checkpointing=checkpointing, ranks=ranks)
    if checkpointing:  # hooks see what is kept between layers, not the one layer that is being recomputed
        assert measured < estimate < 0.5 * activation_bytes(config, bases, chunks, ranks=ranks)
    else:
        assert estimate == pytest.approx(measured, rel=0.1)

"""The arithmetic of costs agrees with the model itself."""

import pytest
import torch

from model.configuration_dnachunker import DNAChunkerConfig
from model.cost import bimamba_layer_parameters, flops_per_base, parameters
from model.modeling_dnachunker import DNAChunkerForMaskedLM


@pytest.mark.parametrize("changes", [{}, {"width": 96, "encoder_layers": (1, 3), "num_heads": 6, "trunk_layers": 2}])
def test_parameters_by_component_add_up_to_the_model(changes: dict[str, object]) -> None:
    config = DNAChunkerConfig(**changes)
    with torch.device("meta"):
        model = DNAChunkerForMaskedLM(config)
    counts = parameters(config)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["trunk"] == sum(p.numel() for p in model.dnachunker.hierarchy.trunk.parameters())
    assert bimamba_layer_parameters(DNAChunkerConfig()) == 2_803_840


def test_flops_of_the_paper_run() -> None:
    config = DNAChunkerConfig()
    assert flops_per_base(config, 8192, (0.56, 0.31)).total == pytest.approx(560e6, rel=0.03)
    assert flops_per_base(config, 8192, (0.3, 0.1)).total < flops_per_base(config, 8192, (0.56, 0.31)).total
    with pytest.raises(ValueError, match="stage"):
        flops_per_base(config, 8192, (0.5,))

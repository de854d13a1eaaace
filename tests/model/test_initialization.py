"""Initial values, from which training does not leap."""

import pytest
import torch

from dnachunker.model.alphabet import MASK_ID
from dnachunker.model.bimamba import Direction
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.initialization import EMBEDDING_STD
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.routing import BoundaryProbability

BASES = 7  # id of A
WINDOWS, LENGTH, STEPS, WARM_UP, RATE = 8, 64, 31, 20, 3e-3  # the rate of preset tiny


def losses_of(composition: float, seed: int) -> list[float]:
    """MLM losses of each step of a training on windows that have four letter frequencies each.

    Args:
        composition: of the Dirichlet distribution of the frequencies; the smaller it is, the more windows differ.
    """
    torch.manual_seed(seed)
    config = DNAChunkerConfig(width=128, encoder_layers=[1, 1], decoder_layers=[1, 1], trunk_layers=4, num_heads=4)
    model = DNAChunkerForMaskedLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(STEPS):
        frequencies = torch.distributions.Dirichlet(torch.full((4,), composition)).sample((WINDOWS,))
        truth = BASES + torch.multinomial(frequencies, LENGTH, replacement=True)
        masked = torch.rand(WINDOWS, LENGTH) < 0.12
        output = model(input_ids=truth.masked_fill(masked, MASK_ID), labels=truth.masked_fill(~masked, -100))
        losses.append(output.mlm_loss.item())
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / WARM_UP)
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize("mixer", ["bimamba", "transformer", "conv"])
def test_a_new_model_has_the_initial_values_that_are_documented(mixer: str) -> None:
    config = DNAChunkerConfig(
        width=64, encoder_layers=[2, 1], decoder_layers=[1, 1], trunk_layers=3, num_heads=4, mixer=mixer
    )
    model = DNAChunkerForMaskedLM(config)
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(EMBEDDING_STD, rel=0.1)
    linear, directions = 0, 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "dt_proj" not in name:
            assert module.weight.std().item() == pytest.approx(config.initializer_range, rel=0.1), name
            linear += 1
        elif isinstance(module, BoundaryProbability):
            assert torch.equal(module.query, torch.eye(64))
            assert torch.equal(module.key, torch.eye(64))
        elif isinstance(module, Direction):
            steps = torch.nn.functional.softplus(module.dt_proj.bias)
            assert config.time_step_min * 0.99 < steps.min().item() < steps.max().item() < config.time_step_max * 1.01
            assert torch.allclose(module.A_log.exp(), torch.arange(1.0, config.state_size + 1).expand_as(module.A_log))
            directions += 1
    assert linear >= 4 * 3 + 2 * 5
    assert directions == (10 if mixer == "bimamba" else 0)


@pytest.mark.parametrize(("composition", "seed"), [(4.0, 0), (4.0, 2), (1.0, 0)])
def test_training_on_windows_of_unlike_composition_does_not_leap(composition: float, seed: int) -> None:
    losses = losses_of(composition, seed)
    rises = [loss - min(losses[:step]) for step, loss in enumerate(losses) if step]
    assert max(rises) < 0.5  # about 60 labels a step: rises of 0.3 are chance; with a small embedding: 1.9 to 2.7
    assert losses[-1] < 1.6  # and it has learned: it began at ln 16 = 2.77

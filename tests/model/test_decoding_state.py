"""Reading one token at a time gives the logits of reading all at once, and only the trunk's memory grows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnachunker.model.alphabet import BOS_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_causal import DNAChunkerForCausalLM


def build(seed: int, **changes: object) -> DNAChunkerForCausalLM:
    torch.manual_seed(seed)
    sizes = {"width": 16, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 1, "num_heads": 2}
    model = DNAChunkerForCausalLM(DNAChunkerConfig(**{**sizes, "causal": True, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def step_through(model: DNAChunkerForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    reading = model.recurrence(len(ids))
    return torch.stack([reading.step(column) for column in ids.unbind(1)], dim=1)


CONFIGS = st.fixed_dictionaries(
    {
        "width": st.sampled_from([8, 24]),
        "num_heads": st.sampled_from([1, 2]),
        "trunk_layers": st.integers(0, 2),
        "conv_width": st.integers(2, 5),
        "state_size": st.sampled_from([1, 4]),
        "expand": st.integers(1, 2),
        "encoder_layers": st.tuples(st.integers(0, 2), st.integers(0, 2)),
        "decoder_layers": st.tuples(st.integers(0, 2), st.integers(0, 2)),
        "qk_norm": st.booleans(),
        "rope_theta": st.sampled_from([100.0, 10_000.0]),
    }
)


@settings(max_examples=15, deadline=None)
@given(CONFIGS, st.integers(1, 3), st.integers(1, 40), st.integers(0, 999))
def test_steps_give_the_logits_of_the_whole(config: dict, rows: int, length: int, seed: int) -> None:
    model = build(seed, **config)
    ids = torch.randint(7, 12, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = BOS_ID
    with torch.no_grad():
        whole = model(ids).logits
    assert (step_through(model, ids) - whole).abs().max() <= 1e-4


@pytest.mark.parametrize("stages", [1, 3])
def test_any_number_of_stages_and_more_chunks_than_the_cache_first_holds(stages: int) -> None:
    ratios, layers = (0.33,) * stages, (1,) * stages
    model = build(stages, encoder_layers=layers, decoder_layers=layers, target_ratios=ratios)
    ids = torch.randint(7, 11, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids)
    assert stages > 1 or whole.chunk_counts[-1].max() > 64
    assert whole.chunk_counts[-1][0] != whole.chunk_counts[-1][1]
    assert (step_through(model, ids) - whole.logits).abs().max() <= 1e-4


def test_what_is_remembered_grows_with_chunks_alone() -> None:
    model = build(0)
    ids = torch.randint(7, 11, (3, 400), generator=torch.Generator().manual_seed(0))
    reading = model.recurrence(3)
    sizes = []
    for column in ids.unbind(1):
        reading.step(column)
        sizes.append(reading.memory())
    assert len({fixed for fixed, _ in sizes}) == 1
    with torch.no_grad():
        most = int(model(ids).chunk_counts[-1].max())
    per_place = 2 * 3 * 16  # keys and values, rows, width
    assert most * per_place <= sizes[-1][1] <= max(64, 2 * most) * per_place

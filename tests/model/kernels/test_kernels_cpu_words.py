"""Without gradients, the first layer on a CPU computes what comes before its scans once for each word of letters."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnachunker.model.alphabet import MASK_ID, N_ID, PAD_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM


def build(*, strand_symmetry: bool) -> DNAChunkerForMaskedLM:
    torch.manual_seed(0)
    layers = {"encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 2}
    return DNAChunkerForMaskedLM(
        DNAChunkerConfig(width=32, num_heads=2, strand_symmetry=strand_symmetry, **layers)
    ).eval()


MODELS = {symmetric: build(strand_symmetry=symmetric) for symmetric in (False, True)}


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any), st.booleans(), st.integers(0, 999))
def test_without_gradients_the_first_layer_computes_each_letter_once(
    lengths: list[int], symmetric: bool, seed: int
) -> None:
    """Also at the ends of a sequence, and beside masks and N; the logits are those of a training step."""
    model = MODELS[symmetric]
    batch = torch.full((len(lengths), max(lengths)), PAD_ID)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(seed + row)
        bases = torch.randint(7, 11, (length,), generator=generator)
        batch[row, :length] = torch.where(torch.rand(length, generator=generator) < 0.12, MASK_ID, bases)
        batch[row, 3 : min(4, length)] = N_ID
    rows: list[int] = []
    layer = model.dnachunker.hierarchy.encoders[0].layers[0]
    hook = layer.in_proj.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    plain = model(batch)
    with torch.no_grad():
        fast = model(batch, boundaries=plain.boundaries)
    hook.remove()
    strands = 2 if symmetric else 1
    assert rows[0] == strands * int((batch != PAD_ID).sum())
    assert rows[1] <= 6  # A, C, G, T, N, [MASK]
    torch.testing.assert_close(fast.logits, plain.logits, atol=2e-6, rtol=1e-5)

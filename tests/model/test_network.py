"""What the network promises: sizes, no effect of pads or batch-mates, no leaks at masks, losses that add up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnachunker.model.alphabet import MASK_ID, PAD_ID
from dnachunker.model.chunking import smooth_both_ways, spread_chunks
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM, DNAChunkerMaskedLMOutput
from dnachunker.model.packing import Packing
from dnachunker.model.routing import Segmentation

SMALL = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 2, "num_heads": 2}


def build(**changes: object) -> DNAChunkerForMaskedLM:
    torch.manual_seed(0)
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**{**SMALL, **changes}))
    with torch.no_grad():  # routers a little off the identity, so that boundaries vary
        for router in model.dnachunker.hierarchy.routers:
            for parameter in router.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def model() -> DNAChunkerForMaskedLM:
    return build().eval()


def masked_bases(shape: tuple[int, int], seed: int, share: float = 0.12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(7, 11, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < share, MASK_ID, ids)


def labels_for(ids: Tensor, seed: int = 1) -> Tensor:
    truth = torch.randint(7, 11, ids.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(ids == MASK_ID, truth, -100)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_default_is_the_172m_model_of_the_paper() -> None:
    with torch.device("meta"):
        model = DNAChunkerForMaskedLM(DNAChunkerConfig())
    hierarchy = model.dnachunker.hierarchy
    assert count(hierarchy.encoders[0].layers[0]) == 2_803_840
    assert [count(part) for part in [*hierarchy.encoders, *hierarchy.decoders]] == [5_607_680] * 4
    assert [count(router) for router in hierarchy.routers] == [819_200] * 2
    assert round(count(hierarchy.trunk) / 1e6, 1) == 147.5
    assert 171.5e6 <= count(model) <= 171.7e6
    assert round(count(model) / 1e6, 2) == 171.59


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.integers(0, 40), st.integers(0, 999))
def test_pads_and_batch_mates_change_nothing(model, lengths: list[int], extra: int, seed: int) -> None:
    batch = torch.full((len(lengths), max(lengths) + extra), PAD_ID)
    for row, length in enumerate(lengths):
        batch[row, :length] = masked_bases((1, length), seed + row)[0]
    with torch.no_grad():
        together = model(batch)
        for row, length in enumerate(lengths):
            alone = model(batch[row : row + 1, :length])
            assert (together.logits[row, :length] - alone.logits[0]).abs().max() <= 1e-6
            assert together.logits[row, length:].abs().sum() == 0
            for stage in range(2):
                assert torch.equal(together.chunk_ids[stage][row, :length], alone.chunk_ids[stage][0])
                assert together.chunk_counts[stage][row] == alone.chunk_counts[stage][0]


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 90), st.floats(0, 0.5), st.integers(0, 999))
def test_every_base_is_in_one_chunk_and_every_mask_in_one_of_its_own(model, length: int, share: float, seed: int):
    ids = masked_bases((2, length), seed, share)
    with torch.no_grad():
        output = model(ids)
    for stage in range(2):
        starts, chunks = output.boundaries[stage], output.chunk_ids[stage]
        assert starts[:, 0].all()
        assert torch.equal(starts.long().cumsum(1) - 1, chunks)  # contiguous, in order, none skipped
        assert torch.equal(chunks[:, -1] + 1, output.chunk_counts[stage])
        for row in range(2):
            sizes = torch.bincount(chunks[row])
            assert (sizes[chunks[row][ids[row] == MASK_ID]] == 1).all()
        assert ((output.boundary_probabilities[stage] >= 0) & (output.boundary_probabilities[stage] <= 1)).all()


def segmentation(lengths: list[int], gate: Tensor, holds_mask: Tensor | None = None) -> Segmentation:
    packing = Packing(torch.tensor([0, *lengths]).cumsum(0).int(), sum(lengths))
    none = torch.zeros(sum(lengths), dtype=torch.bool)
    return Segmentation(packing, gate, gate >= 0.5, none, none if holds_mask is None else holds_mask)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 999))
def test_smoothing_commutes_with_reversal(length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, gate = torch.randn(length, 5, generator=generator), torch.rand(length, generator=generator)
    backwards = torch.cat([gate[:1], gate[1:].flip(0)])  # a gate belongs to a border, not to a position
    result = smooth_both_ways(z, segmentation([length], gate))
    reversed_result = smooth_both_ways(z.flip(0), segmentation([length], backwards))
    torch.testing.assert_close(reversed_result.flip(0), result)


def test_smoothing_between_closed_borders_returns_the_chunk_vector() -> None:
    z = torch.randn(6, 3)
    cut = segmentation([6], torch.tensor([0.3, 0.2, 1.0, 1.0, 0.4, 0.1]))
    torch.testing.assert_close(smooth_both_ways(z, cut)[2], z[2])


def test_a_chunk_with_a_mask_receives_no_residual() -> None:
    holds_mask = torch.tensor([False, False, True, False, False, False])
    cut = segmentation([6], torch.tensor([1.0, 0.9, 0.1, 0.1, 0.8, 0.1]), holds_mask)
    kept = spread_chunks(torch.zeros(3, 2), torch.ones(6, 2), cut, residual_gating=True)[:, 0]
    assert kept.tolist() == [1, 0, 0, 0, 1, 1]


def test_a_masked_base_learns_nothing_from_its_own_residual_path() -> None:
    """Without trunk and decoders, only the residual could bring anything to a masked base: its vector stays 0."""
    ids = torch.full((1, 21), 7)
    ids[0, 10] = MASK_ID
    found = []
    for gating in (True, False):
        model = build(residual_gating=gating).eval()
        model.dnachunker.hierarchy.decoders = torch.nn.ModuleList(Identity() for _ in range(2))
        model.dnachunker.hierarchy.trunk.register_forward_hook(lambda module, inputs, output: output * 0)
        found.append(model.dnachunker(ids).last_hidden_state[0])
    assert found[0][10].abs().max() == 0
    assert found[1][10].abs().max() > 0
    assert found[0][0].abs().max() > 0


class Identity(torch.nn.Module):
    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        return x


def router_gradients(model: DNAChunkerForMaskedLM, loss: Tensor) -> list[float]:
    model.zero_grad()
    loss.backward()
    return [float(parameter.grad.abs().max()) for parameter in model.dnachunker.hierarchy.routers.parameters()]


def test_routers_learn_from_either_loss_alone() -> None:
    model = build()
    ids = masked_bases((2, 80), 0)
    output = model(ids, labels=labels_for(ids))
    assert all(g > 0 for g in router_gradients(model, output.mlm_loss))
    assert all(g > 0 for g in router_gradients(model, model(ids, labels=labels_for(ids)).ratio_loss))


def test_every_parameter_gets_a_gradient_even_without_masks_or_labels() -> None:
    model = build()
    ids = torch.randint(7, 11, (2, 50), generator=torch.Generator().manual_seed(0))
    output = model(ids, labels=torch.full_like(ids, -100))
    output.loss.backward()
    assert output.mlm_loss == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def gradients(model: DNAChunkerForMaskedLM, losses: list[Tensor]) -> Tensor:
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_ratio_loss_alone_brings_both_stages_to_their_target() -> None:
    torch.manual_seed(0)
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**SMALL))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = masked_bases((2, 256), 0)
    rates = []
    for _ in range(100):
        output = model(ids, labels=labels_for(ids))
        output.ratio_loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rates.append(torch.stack(output.natural_rates).mean(1))
    assert (rates[0] > 0.4).all()
    # a boundary is a threshold, so the rates swing about the target and only their average settles
    assert torch.stack(rates[50:]).mean(0).tolist() == pytest.approx([0.33, 0.33], abs=0.03)


@pytest.mark.parametrize("size", [1, 4])
def test_micro_batching_changes_neither_loss_nor_gradient(size: int) -> None:
    model = build()
    ids = masked_bases((8, 60), 3)
    ids[2, 35:] = PAD_ID
    labels = labels_for(ids)
    weights = torch.where(torch.rand(ids.shape) < 0.5, 0.1, 1.0)
    whole = model(ids, labels=labels, loss_weights=weights)
    expected = gradients(model, [whole.loss])
    total = (weights * (labels != -100)).sum()
    pieces = [
        model(a, labels=b, loss_weights=c, loss_normalizer=total, sequence_normalizer=8)
        for a, b, c in zip(ids.split(size), labels.split(size), weights.split(size), strict=True)
    ]
    losses = [piece.loss for piece in pieces]
    assert abs(sum(loss.item() for loss in losses) - whole.loss.item()) <= 1e-6
    assert (gradients(model, losses) - expected).norm() <= 1e-5 * expected.norm()


def outcome(ids: Tensor, **changes: object) -> DNAChunkerMaskedLMOutput:
    with torch.no_grad():
        return build(**changes).eval()(ids, labels=labels_for(ids))


def test_ablation_switches_change_what_they_say() -> None:
    ids = masked_bases((2, 80), 5)
    base = outcome(ids)
    unprotected = outcome(ids, mask_protection=False)
    assert unprotected.forced_counts[0].sum() == 0 < base.forced_counts[0].sum()
    assert torch.equal(unprotected.boundary_probabilities[0], base.boundary_probabilities[0])
    ungated = outcome(ids, residual_gating=False)
    assert torch.equal(ungated.boundaries[1], base.boundaries[1])
    assert not torch.equal(ungated.logits, base.logits)
    forced = outcome(ids, ratio_boundaries="forced")
    assert torch.equal(forced.logits, base.logits)
    assert forced.ratio_loss != base.ratio_loss
    outer_protected = outcome(ids, protected_stages=1)
    assert torch.equal(outer_protected.boundaries[0], base.boundaries[0])
    assert outer_protected.forced_counts[1].sum() == 0 < base.forced_counts[1].sum()
    outer_counted = outcome(ids, ratio_boundaries="forced-stage-0")
    assert torch.equal(outer_counted.logits, base.logits)
    assert outer_counted.ratio_loss not in (base.ratio_loss, forced.ratio_loss)
    # where only stage 0 is protected, no other stage has forced boundaries to count
    both = [outcome(ids, protected_stages=1, ratio_boundaries=which) for which in ("forced", "forced-stage-0")]
    assert both[0].ratio_loss == both[1].ratio_loss
    pooled = outcome(ids, chunk_pooling="mean")
    assert torch.equal(pooled.boundaries[0], base.boundaries[0])
    assert not torch.equal(pooled.logits, base.logits)


def test_qk_norm_takes_the_size_of_queries_and_keys_away() -> None:
    ids = masked_bases((2, 80), 5)
    for qk_norm in (False, True):
        model = build(qk_norm=qk_norm).eval()
        with torch.no_grad():
            before = model(ids).logits
            for layer in model.dnachunker.hierarchy.trunk.layers:
                layer.qkv.weight[: 2 * 32] *= 100.0  # queries and keys, not values
            after = model(ids).logits
        assert ((after - before).abs().max() < 1e-4) == qk_norm


def test_the_weight_of_the_ratio_loss_can_be_scaled_for_a_warm_up() -> None:
    ids, model = masked_bases((2, 80), 5), build(ratio_loss_weight=0.5).eval()
    with torch.no_grad():
        whole, none = (model(ids, labels=labels_for(ids), ratio_loss_scale=scale) for scale in (1.0, 0.0))
    assert torch.equal(none.loss, none.mlm_loss)
    assert torch.equal(whole.loss, whole.mlm_loss + 0.5 * whole.ratio_loss)


def test_boundaries_may_come_with_the_batch() -> None:
    ids = torch.randint(7, 11, (2, 60), generator=torch.Generator().manual_seed(0))
    every = [(torch.arange(60) % k == 0).expand(2, 60) for k in (3, 6)]
    with torch.no_grad():
        output = build(router="fixed").eval()(ids, boundaries=every)
    assert [c.tolist() for c in output.chunk_counts] == [[20, 20], [10, 10]]
    assert all(torch.equal(a, b) for a, b in zip(output.boundaries, every, strict=True))
    with pytest.raises(ValueError, match="boundaries"):
        build(router="fixed")(ids)
    fixed = build(router="fixed")
    fixed(ids, labels=ids, boundaries=every).loss.backward()
    assert all(parameter.grad is not None for parameter in fixed.parameters())
    assert set(dict(build().named_parameters())) - set(dict(fixed.named_parameters())) == {
        f"dnachunker.hierarchy.routers.{stage}.probability.{name}" for stage in range(2) for name in ("query", "key")
    }
    learned = build().eval()
    with torch.no_grad():
        own = learned(ids)
        again = learned(ids, boundaries=own.boundaries)
    assert torch.equal(own.logits, again.logits)


def test_checkpointing_and_repetition_give_the_same_gradients() -> None:
    model = build().train()
    ids = masked_bases((2, 60), 7)
    results = []
    for checkpointed in (False, False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        results.append(gradients(model, [model(ids, labels=labels_for(ids)).loss]))
    assert torch.equal(results[0], results[1])
    torch.testing.assert_close(results[2], results[0], rtol=1e-6, atol=1e-8)


def test_bfloat16_weights_route_in_float32_and_stay_finite() -> None:
    model = build().bfloat16()
    ids = masked_bases((2, 60), 7)
    output = model(ids, labels=labels_for(ids))
    output.loss.backward()
    assert output.boundary_probabilities[0].dtype == output.logits.dtype == output.loss.dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_an_empty_sequence_and_hidden_states(model) -> None:
    ids = masked_bases((3, 30), 1)
    ids[1] = PAD_ID
    output = model(ids, labels=labels_for(ids), output_hidden_states=True)
    assert torch.isfinite(output.loss)
    assert [int(c[1]) for c in output.chunk_counts] == [0, 0]
    assert len(output.hidden_states) == 5
    assert all(level.shape == (3, 30, 32) for level in output.hidden_states)
    as_tuple = model(ids, labels=labels_for(ids), return_dict=False)
    assert torch.equal(as_tuple[0], output.loss)


def test_weight_decay_spares_what_it_should(model) -> None:
    spared = model.no_weight_decay_parameter_names()
    names = dict(model.named_parameters())
    assert spared <= set(names)
    assert all(names[name].dim() > 1 for name in set(names) - spared)
    kinds = {name.rsplit(".", 1)[-1] for name in spared}
    assert kinds == {"weight", "bias", "conv_bias", "A_log", "D"}
    assert "dnachunker.embedding.weight" in spared


@pytest.mark.parametrize(
    "wrong", [{"mixer": "lstm"}, {"target_ratios": (0.3,)}, {"target_ratios": (0.3, 1.0)}, {"width": 30}]
)
def test_a_config_that_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DNAChunkerConfig(**{**SMALL, **wrong})


def test_a_capacity_fixed_beforehand_changes_nothing_but_the_buffers(model) -> None:
    """With capacity to spare, counting chunks on the device alone gives the same losses, gradients and outputs."""
    exact, fixed = build().eval(), build().eval()
    ids = masked_bases((3, 60), 5)
    ids[1, 41:] = PAD_ID
    ids[2, 1:] = PAD_ID
    outputs = []
    for network, capacity in ((exact, None), (fixed, (0.9, 0.8))):
        output = network(
            ids, labels=labels_for(ids), loss_normalizer=7.0, output_hidden_states=True, chunk_capacity=capacity
        )
        output.loss.backward()
        outputs.append(output)
    ours, theirs = outputs[1], outputs[0]
    assert abs(float(ours.loss - theirs.loss)) <= 1e-6
    for name in ("logits", "boundaries", "boundary_probabilities", "chunk_ids", "chunk_counts", "forced_counts"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert a.shape == b.shape
            assert (a.float() - b.float()).abs().max() <= 1e-5, name
    for (name, a), b in zip(fixed.named_parameters(), exact.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 1e-5 * max(1.0, float(b.grad.abs().max())), name


@pytest.mark.parametrize("capacity", [None, (0.9, 0.8)])
@pytest.mark.parametrize("changes", [{}, {"strand_symmetry": True}])
def test_the_head_on_labelled_positions_alone_teaches_the_same(
    changes: dict[str, object], capacity: tuple[float, float] | None
) -> None:
    whole, rows = build(**changes), build(**changes, label_capacity=0.3)
    ids = masked_bases((3, 60), 5)
    ids[1, 41:] = PAD_ID
    weights = torch.where(torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5, 0.1, 1.0)
    losses = []
    for network in (whole, rows):
        output = network(ids, labels=labels_for(ids), loss_weights=weights, chunk_capacity=capacity)
        output.loss.backward()
        losses.append([output.loss.item(), output.mlm_loss.item()])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert output.logits is None
    with torch.no_grad():
        assert torch.equal(rows(ids).logits, whole(ids).logits)  # without labels there are logits everywhere
    for (name, a), b in zip(rows.named_parameters(), whole.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 1e-5 * max(1.0, float(b.grad.abs().max())), name


@pytest.mark.parametrize(("labels", "chunks"), [(0.02, None), (None, (0.2, 0.1))])
def test_more_than_the_capacity_makes_loss_and_gradients_nan(
    labels: float | None, chunks: tuple[float, float] | None
) -> None:
    model = build(label_capacity=labels)
    ids = masked_bases((2, 60), 5)
    loss = model(ids, labels=labels_for(ids), chunk_capacity=chunks).loss
    assert loss.isnan()
    assert gradients(model, [loss]).norm().isnan(), "gradients of zero would be applied"


@pytest.mark.parametrize("capacity", [(0.5,), (0.5, 0.0), (0.5, 1.5)])
def test_a_capacity_that_makes_no_sense_is_refused(capacity: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="chunk_capacity"):
        build()(masked_bases((2, 60), 5), chunk_capacity=capacity)

"""The causal model: no future base reaches a logit, its loss is that of the next base, it saves and loads."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dnachunker.model.alphabet import BOS_ID, N_ID, PAD_ID
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import parameters
from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
from dnachunker.model.modeling_dnachunker import (
    DNAChunkerForMaskedLM,
    DNAChunkerForSequenceClassification,
    DNAChunkerModel,
)

SMALL = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 2, "num_heads": 2}


def build(seed: int = 0, **changes: object) -> DNAChunkerForCausalLM:
    torch.manual_seed(seed)
    model = DNAChunkerForCausalLM(DNAChunkerConfig(**{**SMALL, "causal": True, **changes})).eval()
    with torch.no_grad():  # routers off the identity, so that boundaries vary
        for router in model.dnachunker.hierarchy.routers:
            for parameter in router.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def model() -> DNAChunkerForCausalLM:
    return build()


def sequence(length: int, seed: int, rows: int = 1) -> Tensor:
    ids = torch.randint(7, 11, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = BOS_ID
    return ids


def changed(ids: Tensor, position: int) -> Tensor:
    other = ids.clone()
    other[0, position] = 7 + (other[0, position] - 7 + 1) % 4
    return other


def test_no_logit_depends_on_a_later_base() -> None:
    """Logits are equal to the bit where the change keeps the number of chunks. Another number changes the size of a
    matrix, for which the library may pick another routine: then the last bits of all rows may differ."""
    exact = 0
    for seed in range(60):
        model, random = build(seed % 5), torch.Generator().manual_seed(seed)
        length = int(torch.randint(2, 150, (), generator=random))
        position = int(torch.randint(1, length, (), generator=random))
        ids = sequence(length, seed)
        with torch.no_grad():
            before, after = model(ids), model(changed(ids, position))
        difference = (before.logits - after.logits).abs()
        if all(map(torch.equal, before.chunk_counts, after.chunk_counts)):
            exact += 1
            assert difference[:, :position].max() == 0
        assert difference[:, :position].max() <= 1e-6
        assert difference[:, position].max() > 1e-3
        for stage in range(2):
            assert torch.equal(before.boundaries[stage][:, :position], after.boundaries[stage][:, :position])
    assert 20 <= exact < 60


def test_the_changes_above_do_move_boundaries_and_chunk_counts(model: DNAChunkerForCausalLM) -> None:
    moved = set()
    for seed in range(30):
        ids = sequence(60, seed)
        with torch.no_grad():
            before, after = model(ids), model(changed(ids, 30))
        moved |= {stage for stage in range(2) if before.chunk_counts[stage] != after.chunk_counts[stage]}
        assert all(2 < int(count) < 60 for count in before.chunk_counts)
    assert moved == {0, 1}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("position", [0, 1, 20, 58, 59])
def test_no_gradient_reaches_a_later_base(backend: str, position: int) -> None:
    model, ids = build(scan_backend=backend), sequence(60, 3)
    embedded = model.dnachunker.embedding(ids).detach().requires_grad_()
    model.dnachunker.embedding.register_forward_hook(lambda *_: embedded.flatten(0, 1))
    model(ids).logits[0, position].square().sum().backward()
    assert embedded.grad is not None
    assert (embedded.grad[0, position + 1 :] == 0).all()
    assert (embedded.grad[0, position] != 0).any()
    assert position < 20 or (embedded.grad[0, :position].abs().sum(-1) > 0).all()


def test_the_bidirectional_model_fails_both_proofs() -> None:
    torch.manual_seed(0)
    model, ids = DNAChunkerForMaskedLM(DNAChunkerConfig(**SMALL)).eval(), sequence(60, 3)
    with torch.no_grad():
        assert not torch.equal(model(ids).logits[:, :30], model(changed(ids, 40)).logits[:, :30])
    embedded = model.dnachunker.embedding(ids).detach().requires_grad_()
    model.dnachunker.embedding.register_forward_hook(lambda *_: embedded.flatten(0, 1))
    model(ids).logits[0, 30].square().sum().backward()
    assert embedded.grad is not None
    assert (embedded.grad[0, 31:] != 0).any()


def test_a_label_is_judged_by_the_logits_before_it_within_its_own_sequence(model: DNAChunkerForCausalLM) -> None:
    ids = sequence(40, 1, rows=3)
    ids[1, 25:], ids[2, 10] = PAD_ID, N_ID
    labels = torch.where((ids >= 7) & (ids < 11), ids, -100)
    weights = torch.rand(ids.shape)
    weights[labels == -100] = 0
    with torch.no_grad():
        output = model(ids, labels=labels, loss_weights=weights)
    losses = torch.nn.functional.cross_entropy(output.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    expected = (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()
    torch.testing.assert_close(output.next_base_loss, expected)
    torch.testing.assert_close(output.loss, expected + model.config.ratio_loss_weight * output.ratio_loss)
    with torch.no_grad():  # pads on the left, as in batched generation elsewhere, change nothing
        left = torch.cat((torch.full((3, 7), PAD_ID), ids), dim=1)
        moved = model(left, labels=torch.cat((torch.full((3, 7), -100), labels), dim=1))
    torch.testing.assert_close(moved.next_base_loss, model(ids, labels=labels).next_base_loss)


def test_a_batch_that_does_not_fit_its_capacity_is_not_learned_from() -> None:
    model, ids = build(), sequence(60, 0)
    assert model(ids, labels=ids, chunk_capacity=(0.05, 0.05)).loss.isnan()


@pytest.mark.parametrize(
    "changes", [{"mixer": "conv"}, {"router": "fixed"}, {"chunk_pooling": "mean"}, {"strand_symmetry": True}]
)
def test_what_looks_ahead_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"looks ahead|look ahead"):
        DNAChunkerConfig(causal=True, **changes)


def test_each_class_wants_a_config_of_its_own_kind() -> None:
    with pytest.raises(ValueError, match="causal=True"):
        DNAChunkerForCausalLM(DNAChunkerConfig(**SMALL))
    with pytest.raises(ValueError, match="DNAChunkerForCausalLM"):
        DNAChunkerForMaskedLM(DNAChunkerConfig(**SMALL, causal=True))


def test_its_size_is_that_of_the_172m_model_less_the_backward_blocks() -> None:
    with torch.device("meta"):
        model = DNAChunkerForCausalLM(DNAChunkerConfig(causal=True))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == sum(parameters(DNAChunkerConfig(causal=True)).values())
    assert round(count / 1e6, 2) == 170.2


ISOLATED = """
    import sys
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
    torch.set_num_threads(1)
    folder, expected = sys.argv[1], torch.load(sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(model(expected["ids"]).logits, expected["logits"])
    assert AutoModel.from_pretrained(folder, trust_remote_code=True).config.causal
    try:
        AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
    except ValueError:
        print("fine")
"""


def test_a_saved_folder_loads_as_a_causal_model_without_this_project(tmp_path: Path) -> None:
    model, ids = build(), sequence(50, 0)
    model.save_pretrained(tmp_path / "saved")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        torch.save({"ids": ids, "logits": model(ids).logits}, tmp_path / "expected.pt")
    torch.set_num_threads(threads)
    variables = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    variables.pop("PYTHONPATH", None)
    command = [sys.executable, "-I", "-c", textwrap.dedent(ISOLATED), tmp_path / "saved", tmp_path / "expected.pt"]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.stdout.strip() == "fine", done.stderr
    for head in (DNAChunkerModel, DNAChunkerForSequenceClassification):  # they need no file that was not saved
        head.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / head.__name__)
        config = DNAChunkerConfig.from_pretrained(tmp_path / head.__name__)
        assert not {"AutoModelForMaskedLM", "AutoModelForCausalLM"} & set(config.auto_map)

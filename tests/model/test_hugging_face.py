"""Saving and loading through Hugging Face: round trip, and a folder that works without this project or numba."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM, DNAChunkerForSequenceClassification
from dnachunker.model.tokenization_dnachunker import DNATokenizer


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """A saved folder, an input with pads and masks, and the saved model's logits."""
    torch.manual_seed(0)
    config = DNAChunkerConfig(
        width=32, encoder_layers=(1, 1), decoder_layers=(1, 1), trunk_layers=2, num_heads=2,
        qk_norm=True, protected_stages=1,
    )  # fmt: skip
    model = DNAChunkerForMaskedLM(config).eval()
    with torch.no_grad():  # away from initial values, so that a re-initialisation on loading would show
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    folder = tmp_path_factory.mktemp("exported")
    model.save_pretrained(folder)
    DNATokenizer().save_pretrained(folder)
    ids = torch.randint(7, 11, (2, 150))
    ids[:, ::9] = 3
    ids[1, 100:] = 4
    with torch.no_grad():
        logits = model(ids).logits
    torch.save({"ids": ids, "logits": logits}, folder.parent / "expected.pt")
    return folder, ids, logits


def test_round_trip_keeps_every_parameter_and_the_logits(exported) -> None:
    folder, ids, logits = exported
    loaded = DNAChunkerForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, logits)
    assert loaded.config.encoder_layers == [1, 1]


def test_a_classifier_takes_the_pretrained_body_and_a_fresh_head(exported) -> None:
    folder, ids, _ = exported
    model = DNAChunkerForSequenceClassification.from_pretrained(folder, num_labels=3)
    body = DNAChunkerForMaskedLM.from_pretrained(folder).dnachunker
    for (name, ours), theirs in zip(model.dnachunker.named_parameters(), body.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert torch.isfinite(model.classifier.weight).all()
    assert model.classifier.weight.std() < 0.1
    output = model(ids, labels=torch.tensor([0, 2]))
    assert output.logits.shape == (2, 3)
    output.loss.backward()


ISOLATED = """
    import sys

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {"numba", "triton", "model", "pretrain", "dataprep", "mamba_ssm", "dnachunker"}:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    if sys.argv[2] == "without-numba":
        sys.meta_path.insert(0, Blocked())
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = sys.argv[1]
    expected = torch.load(folder + "/../expected.pt", weights_only=True)
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
    assert "dynamic_module" not in sys.modules and type(model).__module__.startswith("transformers_modules")
    with torch.no_grad():
        logits = model(expected["ids"]).logits
    difference = (logits - expected["logits"]).abs().max().item()
    assert difference <= 1e-5, difference
    base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        hidden = base(expected["ids"]).last_hidden_state
        assert torch.allclose(model.lm_head(hidden)[0], logits[0], atol=1e-5)
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, num_labels=5)
    assert classifier(expected["ids"]).logits.shape == (2, 5)
    labeller = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True, num_labels=3)
    assert labeller(expected["ids"]).logits.shape == (2, 150, 3)
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).width == 32
    assert AutoTokenizer.from_pretrained(folder, trust_remote_code=False)("AC")["input_ids"] == [7, 8]
    assert ("numba" in sys.modules) == (sys.argv[2] == "with-numba")
    if len(sys.argv) > 3:  # what was loaded from a folder can be saved to the next one
        classifier.save_pretrained(sys.argv[3])
        again = AutoModelForSequenceClassification.from_pretrained(sys.argv[3], trust_remote_code=True)
        assert torch.equal(again.classifier.weight, classifier.classifier.weight)
        AutoModel.from_pretrained(sys.argv[3], trust_remote_code=True)
    print("difference", difference)
"""


@pytest.mark.parametrize("numba", ["without-numba", "with-numba"])
def test_the_folder_loads_where_this_project_is_not(exported, tmp_path, numba: str) -> None:
    folder, _, _ = exported
    arguments = [str(folder), numba] + ([str(tmp_path / "again")] if numba == "without-numba" else [])
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(ISOLATED), *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]

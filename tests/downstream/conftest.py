"""A small export with perturbed weights, and synthetic tasks whose classes differ in base composition."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_causal import DNAChunkerForCausalLM
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.model.tokenization_dnachunker import DNATokenizer


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `dnachunker export` writes it."""
    torch.manual_seed(0)
    config = DNAChunkerConfig(width=32, encoder_layers=(1, 1), decoder_layers=(1, 1), trunk_layers=2, num_heads=2)
    model = DNAChunkerForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    folder = tmp_path_factory.mktemp("downstream") / "exported"
    model.save_pretrained(folder)
    DNATokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported causal model whose predictions are far from uniform."""
    torch.manual_seed(0)
    sizes = {"width": 16, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 1, "num_heads": 2}
    model = DNAChunkerForCausalLM(DNAChunkerConfig(**sizes, causal=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path_factory.mktemp("causal") / "exported"
    model.save_pretrained(folder)
    DNATokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of 60 training and 30 test sequences: one with a dev file, one without train, one of 3 classes."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)
    for name, classes, splits in (
        ("one", 2, {"train": 60, "dev": 20}),
        ("two", 2, {"dev": 60}),
        ("three", 3, {"train": 60}),
    ):
        (folder / name).mkdir()
        for split, count in {**splits, "test": 30}.items():
            lines = ["sequence,label"]
            for number in range(count):
                label = number % classes
                share = (0.15 + 0.25 * label, 0.35 - 0.2 * label / 2)
                weights = np.array([0.5 - share[0] / 2, share[0] / 2, share[0] / 2, 0.5 - share[0] / 2])
                lines.append("".join(rng.choice(list("ACGT"), 40 + number % 9, p=weights)) + f",{label}")
            with gzip.open(folder / name / f"{split}.csv.gz", "wt") as file:
                file.write("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Contigs `a` (2,600 bases, soft-masked in part, with N), `b` (300) and `c` (90)."""
    rng = np.random.default_rng(1)
    contigs = {name: "".join(rng.choice(list("ACGT"), length)) for name, length in (("a", 2600), ("b", 300), ("c", 90))}
    a = contigs["a"]
    contigs["a"] = a[:700] + a[700:820].lower() + a[820:1500] + "N" * 40 + a[1540:]
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    path.write_text("".join(f">{name}\n" + "\n".join(text[i : i + 60] for i in range(0, len(text), 60)) + "\n"
                            for name, text in contigs.items()))  # fmt: skip
    return path

"""Code compiled at run time gives the same results, and where nothing compiles, the model runs without it."""

import functools
import logging
from collections.abc import Iterator

import pytest
import torch

from dnachunker.model import kernels
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM

SMALL = {"width": 32, "encoder_layers": (1, 1), "decoder_layers": (1, 1), "trunk_layers": 3, "num_heads": 2}


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    cached = (kernels.triton_launches, kernels.torch_compiles, kernels.compiled, kernels._warn_once)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def trained(compile_trunk: str) -> list[torch.Tensor]:
    """Losses and gradients of two batches of different lengths."""
    torch.manual_seed(0)
    model = DNAChunkerForMaskedLM(DNAChunkerConfig(**SMALL, compile_trunk=compile_trunk))
    found = []
    for length in (40, 57):
        ids = torch.randint(7, 11, (2, length), generator=torch.Generator().manual_seed(length))
        loss = model(ids, labels=ids).loss
        loss.backward()
        found.append(loss.detach())
    return [*found, *(parameter.grad for parameter in model.parameters())]


def test_a_compiled_trunk_gives_the_same_losses_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        counted.append(graph)
        return graph.forward

    # traced as for any backend, but run by torch itself: no compiler needed
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    plain, fused = trained("off"), trained("on")
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert len(counted) == 2, "one for the trial, one for all layers and lengths"


def test_without_a_compiler_a_line_is_said_and_the_model_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(torch, "compile", missing)
    with caplog.at_level(logging.WARNING, "dnachunker.kernels"):
        for a, b in zip(trained("on"), trained("off"), strict=True):
            assert torch.equal(a, b)
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile does not work here (RuntimeError: Failed to find C compiler.): continuing without it"
    ]
    assert not kernels.compiles("auto", "cpu")


def test_auto_leaves_a_triton_that_cannot_launch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trial = pytest.importorskip("dnachunker.model.kernels_triton")

    def missing(device: str) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    trial.try_a_launch("cpu")  # the interpreter runs it
    monkeypatch.setattr(trial, "try_a_launch", missing)
    monkeypatch.setattr(kernels, "mamba_ssm_works", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with caplog.at_level(logging.WARNING, "dnachunker.kernels"):
        assert kernels.scan_backend("auto", "cuda", torch.bfloat16) == "chunked"
        assert kernels.scan_backend("auto", "cuda", torch.bfloat16) == "chunked"
        with pytest.raises(ValueError, match="C compiler"):
            kernels.scan_backend("triton", "cuda", torch.bfloat16)
    assert len([record for record in caplog.records if "Failed to find C compiler" in record.getMessage()]) == 1

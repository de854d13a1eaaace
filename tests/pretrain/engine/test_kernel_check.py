"""A kernel that fails is found before the first step: named in one line, and replaced on all ranks or refused."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dnachunker.foundations.failures import BadInput, BadInputOnAllRanks
from dnachunker.model import attention, kernels
from dnachunker.pretrain.config import EngineSettings, ModelSettings
from dnachunker.pretrain.engine import kernel_cases
from dnachunker.pretrain.engine.kernel_check import Fault, settle_backends
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.records.event_log import read_events

MODEL = ModelSettings(width=8, num_heads=2, state_size=4)
ALONE = Rank(0, 1, 0, torch.device("cpu"))


def twice(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *arguments, **named: 2 * original(*arguments, **named)


def wrong_gradient(original: Callable[..., Any]) -> Callable[..., Any]:
    """The result is right, its gradients are not."""

    def run(*arguments: Any, **named: Any) -> Any:
        found = original(*arguments, **named)
        doubled = tuple(2 * y - y.detach() for y in (found if isinstance(found, tuple) else (found,)))
        return doubled if isinstance(found, tuple) else doubled[0]

    return run


def does_not_compile(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("PTXAS error: unsupported gpu architecture\nmore")

    return run


BREAK = pytest.mark.parametrize(
    ("broken", "said"),
    [
        (twice, "differs from plain torch (result: by 1 of the largest value, more than 0.001)"),
        (wrong_gradient, "differs from plain torch (gradient 1: by 1 of the largest value, more than 0.001)"),
        (does_not_compile, "does not run (RuntimeError: PTXAS error: unsupported gpu architecture)"),
    ],
)


def test_sound_kernels_pass_and_change_nothing() -> None:
    for precision in ("fp32", "bf16-autocast", "bf16"):
        settings = EngineSettings(precision=precision)
        checked = settle_backends(settings, MODEL, ALONE)
        assert checked.faults == ()
        assert checked.settings == settings


@BREAK
def test_a_broken_kernel_is_named_and_replaced(
    broken: Callable[..., Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kernels._SCANS, "cpu", broken(kernels._SCANS["cpu"]))
    checked = settle_backends(EngineSettings(), MODEL, ALONE)
    (line,) = checked.faults
    assert line.startswith(f"rank 0: scan kernel of cpu {said} on cpu (")
    assert line.endswith("; all ranks use scan_backend chunked instead")
    assert checked.settings == EngineSettings(scan_backend="chunked")


@BREAK
def test_a_broken_kernel_that_was_asked_for_is_refused(
    broken: Callable[..., Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "conv_silu_cpu", broken(kernels.conv_silu_cpu))
    with pytest.raises(BadInputOnAllRanks) as refused:
        settle_backends(EngineSettings(scan_backend="cpu"), MODEL, ALONE)
    assert str(refused.value).startswith(f"engine.scan_backend: rank 0: convolution kernel of cpu {said}")
    assert str(refused.value).endswith("; set engine.scan_backend to chunked")


def test_a_kernel_that_leaves_the_gpu_unusable_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def illegal(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setitem(kernels._SCANS, "cpu", illegal)
    monkeypatch.setattr(torch, "ones", illegal)
    with pytest.raises(BadInput, match=r"^scan kernel .* left the GPU unusable; set engine.scan_backend to chunked$"):
        settle_backends(EngineSettings(), MODEL, ALONE)


def test_a_library_that_is_missing_is_refused() -> None:
    with pytest.raises(
        BadInputOnAllRanks, match=r"^engine\.attention_backend 'flash_attn' .* set attention_backend to 'auto'$"
    ):
        settle_backends(EngineSettings(attention_backend="flash_attn"), MODEL, ALONE)


def test_plain_torch_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cases, "_with_gradients", does_not_compile)
    for name in ("chunked", "reference"):
        assert not settle_backends(EngineSettings(scan_backend=name), MODEL, ALONE).faults


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The kernels of Triton, chosen automatically and run by its interpreter on a batch that it can bear."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton")
    monkeypatch.setattr(kernel_cases, "LENGTHS", (17, 1, 0, 5))
    monkeypatch.setattr(kernel_cases, "MOST_CHANNELS_CPU", 6)
    monkeypatch.setitem(kernels._SCAN, "triton", kernels._SCAN["triton"]._replace(auto=("cpu",)))
    fused = SimpleNamespace(**vars(kernels.fused_kernels()))
    monkeypatch.setattr(kernels, "fused_kernels", lambda: fused)
    return fused


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_triton_passes(triton: SimpleNamespace, precision: str) -> None:
    settings = EngineSettings(precision=precision)
    assert settle_backends(settings, MODEL, ALONE).settings == settings


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("gated_scan", "scan"),
        ("conv_silu_both_ways", "convolution"),
        ("smooth_both_ways", "smoothing"),
        ("boundary_probability", "router"),
        ("sum_and_norm", "norm"),
        ("rotated", "rotary"),
    ],
)
def test_each_broken_kernel_of_triton_is_named(
    triton: SimpleNamespace, kernel: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setattr(triton, kernel, wrong_gradient(getattr(triton, kernel)))
    checked = settle_backends(EngineSettings(), MODEL, ALONE)
    assert [line.split(" of triton differs")[0] for line in checked.faults] == [f"rank 0: {name} kernel"]
    assert checked.settings.scan_backend == "chunked"


def test_a_chunk_at_the_wrong_place_is_found(triton: SimpleNamespace) -> None:
    cut = triton.cut_chunks

    def late(*arguments: Any, **named: Any) -> dict[str, Tensor]:
        found = cut(*arguments, **named)
        return {**found, "starts": found["starts"] + (found["starts"] == found["starts"].max()).long()}

    triton.cut_chunks = late
    (line,) = settle_backends(EngineSettings(), MODEL, ALONE).faults
    assert line.startswith("rank 0: chunking kernel of triton differs")


class Joined(Rank):
    """Rank 0 of two; the other one reports a fault of attention."""

    def gather(self, value: Any) -> list[Any]:
        return [value, ("", [Fault("attention", "attention kernel of flash_attn does not run (OSError) on a GPU")])]


def test_a_kernel_that_fails_on_another_rank_is_replaced_here_too() -> None:
    checked = settle_backends(EngineSettings(), MODEL, Joined(0, 2, 0, torch.device("cpu")))
    assert checked.settings == EngineSettings(attention_backend="sdpa")
    assert checked.faults == (
        "rank 1: attention kernel of flash_attn does not run (OSError) on a GPU; "
        "all ranks use attention_backend sdpa instead",
    )


def test_a_broken_attention_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels._ATTENTION, "flash_attn", kernels.Backend(("cpu",), lambda device, dtype: ""))
    broken = SimpleNamespace(flash_attn_varlen_func=lambda q, k, v, *_, causal: q * k.sum() * v)
    real = attention.importlib.import_module
    replaced = SimpleNamespace(import_module=lambda name: broken if name == "flash_attn" else real(name))
    monkeypatch.setattr(attention, "importlib", replaced)
    checked = settle_backends(EngineSettings(), MODEL, ALONE)
    assert checked.settings.attention_backend == "sdpa"
    assert "attention kernel of flash_attn differs" in checked.faults[0]


# Read by Python as it starts: breaks the scan of rank 1 before the kernels are chosen.
BROKEN_ON_RANK_1 = """
import os, sys
class Break:
    def find_spec(self, name, path, target=None):
        if name == "dnachunker.model.kernels":
            sys.meta_path.remove(self)
            from dnachunker.model import kernels_cpu
            sound = kernels_cpu.selective_scan
            kernels_cpu.selective_scan = lambda *arguments: 2 * sound(*arguments)
if os.environ.get("RANK") == "1":
    sys.meta_path.insert(0, Break())
"""


@pytest.mark.slow
def test_a_run_goes_on_without_a_kernel_that_fails_on_one_rank(
    dnachunker: Callable[..., Any], toy_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_ON_RANK_1)
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    argv = [
        "pretrain", "--config", "tiny", "--corpus", toy_folder, "--processes", 2, "steps=2", "data.seq_len=128",
        "model.width=16", "model.num_heads=2", "tracking.enabled=false", "evaluation.windows=2",
    ]  # fmt: skip
    done = dnachunker(*argv, "--run", tmp_path / "run", env=variables)
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "kernel of" in line]
    assert len(said) == 1, "one rank says it"
    assert "rank 1: scan kernel of cpu differs" in said[0]
    events = read_events(tmp_path / "run")
    assert [event["steps_done"] for event in events if event["event"] == "step"][-1] == 2
    (start,) = [event for event in events if event["event"] == "start"]
    assert start["kernels"]["faults"] == ["rank 1: " + said[0].split("rank 1: ")[1]]
    assert start["kernels"]["scan"] == "chunked"

    refused = tmp_path / "refused"
    done = dnachunker(*argv, "--run", refused, "engine.scan_backend=cpu", env=variables)
    assert done.returncode == 2
    (line,) = refusals(done.stderr)
    assert line.startswith("dnachunker: engine.scan_backend: rank 1: scan kernel of cpu differs from plain torch")
    assert not refused.exists()


def test_a_backend_that_cannot_run_here_is_refused_in_one_line(
    dnachunker: Callable[..., Any], toy_folder: Path, tmp_path: Path
) -> None:
    argv = ["pretrain", "--config", "tiny", "--corpus", toy_folder, "--run", tmp_path / "run"]
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = dnachunker(*argv, "engine.scan_backend=triton", env=variables)
    assert done.returncode == 2
    assert refusals(done.stderr) == [
        "dnachunker: engine.scan_backend 'triton' needs CUDA, triton and a C compiler (device: cpu): "
        "pip install triton, and install a compiler; or set scan_backend to 'auto'"
    ]
    assert not (tmp_path / "run").exists()


def refusals(printed: str) -> list[str]:
    """What is printed to stderr, but for the line that says how many ranks start."""
    return [line for line in printed.splitlines() if not line.startswith("starting ")]

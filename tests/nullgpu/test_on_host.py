"""CUDA operations give what the CPU gives, and what a GPU would not do is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nullgpu
START = "import torch\nfrom on_host import OnHost\n"


def run(variables: dict[str, str], code: str) -> "subprocess.CompletedProcess[str]":
    path = str(Path(__file__).parent)
    environment = {**os.environ, **variables, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", START + code], env=environment, capture_output=True, text=True)


def test_operations_and_gradients_are_those_of_the_cpu(null_gpus: dict[str, str]) -> None:
    code = """
def work(device):
    torch.manual_seed(0)
    x = torch.randn(5, 8).to(device).requires_grad_()
    w = torch.arange(48.0, device=device).view(8, 6).div_(48)[:, ::2]
    y = torch.nn.functional.rms_norm(x @ w, (3,), torch.ones(3, device=device)).exp() * 1
    y[y > 1] *= 2
    (y.cumsum(0).sort(1).values.sum() + torch.stack([y, y]).mean()).backward()
    return y.detach().cpu(), x.grad.cpu(), y.argmax().item()
with OnHost():
    assert torch.cuda.device_count() == 4
    for got, wanted in zip(work("cuda:1"), work("cpu"), strict=True):
        torch.testing.assert_close(got, wanted)
"""
    done = run(null_gpus, code)
    assert done.returncode == 0, done.stderr


def test_operations_that_mix_devices_are_refused(null_gpus: dict[str, str]) -> None:
    for other in ("cpu", "cuda:1"):
        code = f"with OnHost():\n    torch.ones(3, device='cuda:0') + torch.ones(3, device='{other}')"
        done = run(null_gpus, code)
        assert "same device" in done.stderr, done.stderr
    code = "with OnHost():\n    assert (torch.ones(3, device='cuda:0') + torch.tensor(1.0)).sum() == 6"
    assert run(null_gpus, code).returncode == 0, "a number may come from the CPU"


def test_a_kernel_that_would_run_is_refused(null_gpus: dict[str, str]) -> None:
    done = run(null_gpus, "torch.ones(3, device='cuda')")
    assert "a kernel is launched" in done.stderr
    assert done.returncode != 0

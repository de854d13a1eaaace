"""What all Triton kernels share: triton itself, small device functions, and a trial of whether kernels run here.

triton comes through importlib, so that Hugging Face's import check of exported models does not ask for it: this file
and the kernels' files are imported where triton is (`kernels.py`).
"""

import importlib
from typing import Any

import torch

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")
# For kernels that the host launches; kernels call the others. These numbers change with every batch, and another one is
# no reason to compile again.
launched: Any = triton.jit(do_not_specialize=["T", "chunks", "places", "sequences"])


@triton.jit
def softplus(x):
    """log(1 + e^x), exact to rounding for small e^x: log(w) e / (w - 1) with w = 1 + e makes up for w's rounding."""
    e = tl.exp(x)  # where it overflows, the result is not taken
    w = 1.0 + e
    lost = w - 1.0
    small = tl.where(lost == 0.0, e, tl.log(w) * (e / tl.where(lost == 0.0, 1.0, lost)))
    return tl.where(x > 20.0, x, small)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def dropping(step, way, t, T):
    """What to add to the exponent of the decay at t: 0, or what makes it 0 where a sequence is entered."""
    place = tl.load(step + way * T + t, mask=t < T, other=1)
    return tl.where(place == 0, -1e30, 0.0)


@triton.jit
def time_step(raw, delta, offset, dt_bias, valid):
    """softplus(raw + dt_bias), written to `delta` too; 0 where there is no position, which leaves a state as it is."""
    x = tl.load(raw + offset, mask=valid, other=0.0).to(tl.float32) + dt_bias
    steps = tl.where(valid, softplus(x), 0.0)
    tl.store(delta + offset, steps, mask=valid)
    return steps


@launched
def write_one(target):
    """1 into the first place. Grid (1,)."""
    tl.store(target, 1)


def try_a_launch(device: str) -> None:
    """Compile and run the smallest kernel: that triton is installed does not say that it works here.

    It needs a C compiler for its launcher, and a GPU and driver that it knows.

    Raises:
        Exception: whatever Triton, the compiler or the driver have to say.
    """
    target = torch.zeros(1, dtype=torch.int32, device=device)
    write_one[(1,)](target)
    if int(target) != 1:
        raise RuntimeError("a kernel ran and wrote nothing")

"""What all Triton kernels share: triton itself, small device functions, and a test whether kernels run here.

triton comes through importlib, so that Hugging Face's import check of exported models does not ask for it.
`kernels.py` imports this file and the kernels' files only if triton is installed.
"""

import importlib
import os
from typing import Any

import torch

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")
# For kernels that the host launches. The named arguments change with every batch; a new value must not compile the
# kernel again.
launched: Any = triton.jit(do_not_specialize=["T", "spans", "capacity", "sequences"])
INTERPRETED: Any = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def end_of_range(x):
    """x, as the end of a `range`: needed where x is no constant of the kernel.

    The interpreter runs Python's own `range`, which needs an integer. Scalars of Triton 3.6's interpreter are arrays of
    one element, and NumPy 2.4 turns no such array into an integer. The compiler sees x alone.
    """
    return x.handle.data.item() if INTERPRETED else x


@triton.jit
def softplus(x):
    """log(1 + e^x), exact to rounding for small e^x: log(w) e / (w - 1) with w = 1 + e corrects the rounding of w."""
    e = tl.exp(x)  # may overflow for large x, where the result is x instead
    w = 1.0 + e
    lost = w - 1.0
    small = tl.where(lost == 0.0, e, tl.log(w) * (e / tl.where(lost == 0.0, 1.0, lost)))
    return tl.where(x > 20.0, x, small)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def dropping(step, way, t, T):
    """The term to add to the decay's exponent at t: 0, or where a sequence begins -1e30, which makes the decay 0."""
    place = tl.load(step + way * T + t, mask=t < T, other=1)
    return tl.where(place == 0, -1e30, 0.0)


@triton.jit
def time_step(raw, delta, offset, dt_bias, valid):
    """softplus(raw + dt_bias), written to `delta` too; 0 where not `valid`, which leaves a state unchanged."""
    x = tl.load(raw + offset, mask=valid, other=0.0).to(tl.float32) + dt_bias
    steps = tl.where(valid, softplus(x), 0.0)
    tl.store(delta + offset, steps, mask=valid)
    return steps


@launched
def write_one(target):
    """Write 1 to the first element. Grid (1,)."""
    tl.store(target, 1)


def try_a_launch(device: str) -> None:
    """Compile and run the smallest kernel: triton may be installed and still not work here.

    Triton needs a C compiler for its launcher, and a GPU and driver that it supports.

    Raises:
        Exception: whatever Triton, the compiler or the driver raise.
    """
    target = torch.zeros(1, dtype=torch.int32, device=device)
    write_one[(1,)](target)
    if int(target) != 1:
        raise RuntimeError("a kernel ran and wrote nothing")

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
LOG2_E: Any = tl.constexpr(1.4426950408889634)
LN_2: Any = tl.constexpr(0.6931471805599453)
INTERPRETED: Any = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def end_of_range(x):
    """x, as the end of a `range`: needed where x is no constant of the kernel.

    The interpreter runs Python's own `range`, which needs an integer. Scalars of Triton 3.6's interpreter are arrays of
    one element, and NumPy 2.4 turns no such array into an integer. The compiler sees x alone.
    """
    return x.handle.data.item() if INTERPRETED else x


@triton.jit
def log2(x):
    """The GPU's own logarithm, whose absolute error is 2^-22 near 1; Triton's takes 25 instructions."""
    if INTERPRETED:
        return tl.log2(x)
    return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), by a series where 1 + e^-|x| would lose digits."""
    e = tl.exp2(tl.abs(x) * -LOG2_E)
    small = e * (1.0 - e * (1.0 / 2.0 - e * (1.0 / 3.0 - e * (1.0 / 4.0 - e / 5.0))))
    return tl.maximum(x, 0.0) + tl.where(e < 0.0625, small, log2(1.0 + e) * LN_2)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def dropping(step, r):
    """The term to add to the decay's exponent at r: 0, or where a sequence begins -1e30, which makes the decay 0."""
    return tl.where(tl.load(step + r) == 0, -1e30, 0.0)


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

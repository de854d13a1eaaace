"""What all Triton kernels share: triton itself, small device functions, and a test whether kernels run here.

triton comes through importlib, so that Hugging Face's import check of exported models does not ask for it.
`kernels.py` imports this file and the kernels' files only if triton is installed.
"""

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")
LOG2_E: Any = tl.constexpr(1.4426950408889634)
LN_2: Any = tl.constexpr(0.6931471805599453)
INTERPRETED: Any = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


class Launched:
    """A kernel that the host launches: `kernel[grid](...)`.

    In it a product and its sum are one instruction. From Triton 3.10 on this is no default.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        # these arguments change with every batch; a new value must not compile the kernel again
        self.jit = triton.jit(do_not_specialize=["T", "spans", "capacity", "sequences"])(function)

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return functools.partial(self.jit[grid], enable_fp_fusion=True)


launched = Launched


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


# Eight powers of two in PTX, seven by the GPU's own instruction, the last by ten others. 2^x = 2^i 2^f, with i the
# nearest integer and f in [-1/2, 1/2]: adding 1.5 * 2^23 rounds x to i, which then lies in the lowest bits. A
# polynomial gives 2^f, exactly 1 at f = 0. The result errs by at most 1.7e-7 of its value, as the GPU's own; below
# 2^-126 its error is below 2^-126. `max` drops a NaN, and `emit` and `retreat`, which compute the power again, keep it.
# "&" in the constraints: an output is written before the last input is read, so they share no register.
EIGHT_POWERS: Any = tl.constexpr(
    "{ .reg .f32 f, i, p; .reg .b32 n, m; "
    + "".join(f"ex2.approx.ftz.f32 ${k}, ${k + 8}; " for k in range(7))
    + "max.ftz.f32 f, $15, 0fC2FE0000; add.rn.ftz.f32 i, f, 0f4B400000; sub.rn.ftz.f32 p, i, 0f4B400000; "
    + "sub.rn.ftz.f32 f, f, p; fma.rn.ftz.f32 p, f, 0f3AADDD04, 0f3C1E7545; "
    + "".join(f"fma.rn.ftz.f32 p, p, f, {c}; " for c in ("0f3D635BAA", "0f3E75FCDE", "0f3F317215", "0f3F800000"))
    + "mov.b32 n, i; mov.b32 m, p; shl.b32 n, n, 23; add.s32 n, n, m; mov.b32 $7, n; }"
)
OF_EIGHT: Any = tl.constexpr(",".join(["=&f"] * 8 + ["f"] * 8))


@triton.jit
def exp2(x, SHARED: tl.constexpr):
    """2^x for x <= 0. With SHARED, the units that multiply and add compute one of eight: for kernels that wait for the
    special-function units.
    """
    if INTERPRETED or not SHARED:
        return tl.exp2(x)
    return tl.inline_asm_elementwise(EIGHT_POWERS, OF_EIGHT, [x], dtype=tl.float32, is_pure=True, pack=8)


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
def opening(x):
    """sigmoid(x) by the GPU's own reciprocal, whose error is one unit in the last place; a division takes five."""
    below = 1.0 + tl.exp2(x * -LOG2_E)
    if INTERPRETED:
        return 1.0 / below
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [below], dtype=tl.float32, is_pure=True, pack=1
    )


# Two numbers in bf16 share a register: an instruction for each.
OF_A_PAIR: Any = tl.constexpr("shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;")


@triton.jit
def widened(x):
    """x in float32, in two instructions for a pair in bf16; Triton's cast takes three."""
    if INTERPRETED or x.dtype != tl.bfloat16:
        return x.to(tl.float32)
    return tl.inline_asm_elementwise(OF_A_PAIR, "=&r,=&r,r", [x], dtype=tl.float32, is_pure=True, pack=2)


@triton.jit
def channels(block, D: tl.constexpr, WIDTH: tl.constexpr):
    """The channels of a block, and which of them exist; those that do not stand for the last, which may be read."""
    d = block * WIDTH + tl.arange(0, WIDTH)
    real = d < D
    if D % WIDTH:
        d = tl.minimum(d, D - 1)
    return d, real


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

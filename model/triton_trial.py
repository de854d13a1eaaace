"""The least kernel there is, to find out whether Triton can compile and launch one here.

That triton is installed does not say so: it needs a C compiler for its launcher, and a card and driver it knows.
"""

import torch

from .triton_scan import launched, tl


@launched
def write_one(target):
    """1 into the first place. Grid (1,)."""
    tl.store(target, 1)


def launch(device: str) -> None:
    """Compile and run it.

    Raises:
        Exception: whatever Triton, the compiler or the driver have to say.
    """
    target = torch.zeros(1, dtype=torch.int32, device=device)
    write_one[(1,)](target)
    if int(target) != 1:
        raise RuntimeError("a kernel ran and wrote nothing")

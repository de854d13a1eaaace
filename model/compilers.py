"""Whether what would be compiled at run time does compile here: tried once, on something trivial.

A machine without a C compiler has both Triton and torch.compile installed, and fails only at the first use of either.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("dnachunker.kernels")


def _said(error: Exception) -> str:
    """An error as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@functools.cache
def triton_launches(device: str = "cuda") -> bool:
    """Whether Triton compiles and launches a kernel on this device type; a line says why where it does not."""
    try:
        from .triton_trial import launch

        launch(device)
    except Exception as error:  # of the compiler, the driver, a subprocess: any of them means the same
        logger.warning("triton is installed but cannot run a kernel (%s): going without", _said(error))
        return False
    return True


@functools.cache
def torch_compiles(device: str) -> bool:
    """Whether torch.compile works for this device type; a line says why where it does not."""
    try:
        torch.compile(_twice)(torch.ones(2, device=device))
    except Exception as error:  # as above
        logger.warning("torch.compile does not work here (%s): going without", _said(error))
        return False
    return True


def compiles(requested: str, device: str) -> bool:
    """What a `compile` setting means on this device type: `auto` is on CUDA alone, `on` and `auto` where it works."""
    return (requested == "on" or (requested == "auto" and device == "cuda")) and torch_compiles(device)


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compile` of a function of tensors, for any number of rows."""
    result: Any = torch.compile(function, dynamic=True)
    return result  # type: ignore[no-any-return]


def _twice(x: Tensor) -> Tensor:
    return x + x

"""Which implementation runs: the one place that chooses the backends of the scan and of attention.

Scan, convolution and smoothing: `triton` (CUDA), both directions of a layer in one launch, and the router;
`cpu` (compiled loops, float32 on the CPU); `reference` (plain torch, anywhere); `mamba_ssm` (CUDA) has a scan, and
leaves the other two to the reference.
Attention: `flash_attn`, `torch_varlen` (both CUDA, half precision) or `sdpa`. `auto` takes the fastest that runs on
the tensors at hand. Optional libraries are looked up with importlib, so that Hugging Face's import check does not
ask for them.
"""

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .kernels_cpu import conv_silu as conv_silu_cpu
from .kernels_cpu import selective_scan as selective_scan_cpu
from .kernels_cpu import smooth as smooth_cpu
from .kernels_cpu_loops import AVAILABLE as NUMBA_AVAILABLE
from .kernels_cpu_loops import CONV_WIDTH
from .kernels_mamba_ssm import selective_scan as selective_scan_mamba_ssm
from .kernels_reference import conv_silu as conv_silu_reference
from .kernels_reference import selective_scan as selective_scan_reference
from .kernels_reference import smooth as smooth_reference

SCAN_BACKENDS = ("auto", "triton", "reference", "cpu", "mamba_ssm")
ATTENTION_BACKENDS = ("auto", "flash_attn", "torch_varlen", "sdpa")

_SCANS: dict[str, Callable[..., Tensor]] = {
    "reference": selective_scan_reference,
    "cpu": selective_scan_cpu,
    "mamba_ssm": selective_scan_mamba_ssm,
    "triton": selective_scan_reference,  # of one direction alone; a layer calls `fused_kernels().gated_scan`
}

logger = logging.getLogger("dnachunker.kernels")


@functools.cache
def _say_once(what: str, backend: str, device: str, dtype: torch.dtype) -> None:
    logger.info("%s backend: %s (%s, %s)", what, backend, device, str(dtype).removeprefix("torch."))


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def scan_backend(requested: str, device: str, dtype: torch.dtype) -> str:
    """The scan backend for tensors on this device type and of this dtype.

    Raises:
        ValueError: the backend asked for by name cannot run here; the message says what would make it run.
    """
    if requested == "auto":
        if device == "cpu" and dtype != torch.float64 and NUMBA_AVAILABLE:
            choice = "cpu"
        elif device == "cuda" and dtype != torch.float64 and triton_works(device):
            choice = "triton"
        elif device == "cuda" and dtype != torch.float64 and mamba_ssm_works():
            choice = "mamba_ssm"
        else:
            choice = "reference"
            if dtype != torch.float64:
                missing = "numba is not installed" if device == "cpu" else "triton does not run here"
                _warn_once(f"{missing}: the selective scan runs as a plain torch loop, slow for training")
    elif requested == "cpu":
        if not NUMBA_AVAILABLE:
            raise ValueError("scan_backend 'cpu' needs numba: pip install numba, or set scan_backend to 'auto'")
        if device != "cpu":
            raise ValueError(f"scan_backend 'cpu' cannot run on {device}: set scan_backend to 'auto'")
        choice = "cpu" if dtype != torch.float64 else "reference"
    elif requested == "triton":
        if not triton_works(device):
            raise ValueError(
                f"scan_backend 'triton' needs CUDA, triton and a C compiler, on {device}: pip install triton, see that "
                "there is a compiler, or set it to 'auto'"
            )
        choice = "triton" if dtype != torch.float64 else "reference"
    elif requested == "mamba_ssm":
        if device != "cuda":
            raise ValueError(f"scan_backend 'mamba_ssm' needs CUDA, not {device}: set scan_backend to 'auto'")
        if not mamba_ssm_works():
            raise ValueError("scan_backend 'mamba_ssm' needs mamba-ssm: pip install mamba-ssm, or choose 'auto'")
        choice = "mamba_ssm" if dtype != torch.float64 else "reference"
    elif requested == "reference":
        choice = "reference"
    else:
        raise ValueError(f"unknown scan_backend {requested!r}; one of {', '.join(SCAN_BACKENDS)}")
    _say_once("scan", choice, device, dtype)
    return choice


def triton_works(device: str) -> bool:
    """Whether Triton's kernels run on this device type: on the CPU too where its interpreter is switched on."""
    if not _importable("triton"):
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return device in ("cuda", "cpu")
    return device == "cuda" and triton_launches()


@functools.cache
def fused_kernels() -> SimpleNamespace:
    """The Triton kernels as torch functions; their files are imported only where `triton_works`."""
    from .kernels_triton_conv import conv_silu_both_ways
    from .kernels_triton_routing import boundary_probability, cut_chunks
    from .kernels_triton_scan import gated_scan
    from .kernels_triton_smooth import smooth_both_ways

    return SimpleNamespace(
        gated_scan=gated_scan,
        conv_silu_both_ways=conv_silu_both_ways,
        smooth_both_ways=smooth_both_ways,
        boundary_probability=boundary_probability,
        cut_chunks=cut_chunks,
    )


@functools.cache
def mamba_ssm_works() -> bool:
    """Whether mamba-ssm is installed and its extension loads here (a build for another torch does not)."""
    if not _importable("mamba_ssm"):
        return False
    try:
        importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError as error:
        _warn_once(f"mamba-ssm is installed but does not load ({error})")
        return False
    return True


@functools.cache
def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def attention_backend(requested: str, device: str, dtype: torch.dtype) -> str:
    """The attention backend for tensors on this device type and of this dtype.

    Raises:
        ValueError: the backend asked for by name cannot run here.
    """
    fused = {"flash_attn": _importable("flash_attn"), "torch_varlen": _importable("torch.nn.attention.varlen")}
    half_on_gpu = device == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if requested == "auto":
        choice = next((name for name, there in fused.items() if there and half_on_gpu), "sdpa")
    elif requested in fused:
        if not fused[requested]:
            raise ValueError(f"attention_backend {requested!r} is not installed: set attention_backend to 'auto'")
        if not half_on_gpu:
            raise ValueError(f"attention_backend {requested!r} needs bf16 or fp16 on CUDA, not {dtype} on {device}")
        choice = requested
    elif requested == "sdpa":
        choice = "sdpa"
    else:
        raise ValueError(f"unknown attention_backend {requested!r}; one of {', '.join(ATTENTION_BACKENDS)}")
    _say_once("attention", choice, device, dtype)
    return choice


def describe_backends(scan: str, attention: str, device: str, dtype: torch.dtype) -> str:
    """One line for the start of a log, such as `scan cpu, attention sdpa (cpu, float32)`."""
    chosen = f"scan {scan_backend(scan, device, dtype)}, attention {attention_backend(attention, device, dtype)}"
    return f"{chosen} ({device}, {str(dtype).removeprefix('torch.')})"


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    cu_seqlens: Tensor,
    *,
    reverse: bool,
    backend: str = "auto",
) -> Tensor:
    """Selective scan, shapes as `kernels_reference.selective_scan`; returns the dtype of u.

    States are kept in at least float32: lower precisions are computed in float32 and rounded at the end.
    """
    dtype = u.dtype
    u, delta, A, B, C, D = (x if x.dtype == torch.float64 else x.float() for x in (u, delta, A, B, C, D))
    choice = scan_backend(backend, u.device.type, u.dtype)
    return _SCANS[choice](u, delta, A, B, C, D, cu_seqlens, reverse).to(dtype)


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, *, reverse: bool, backend: str = "auto"
) -> Tensor:
    """Depthwise convolution and SiLU, shapes as `kernels_reference.conv_silu`; returns the dtype of x."""
    if scan_backend(backend, x.device.type, x.dtype) == "cpu" and weight.shape[1] == CONV_WIDTH:
        return conv_silu_cpu(x.float(), weight.float(), bias.float(), cu_seqlens, reverse).to(x.dtype)
    return conv_silu_reference(x, weight, bias, cu_seqlens, reverse)


def smooth(z: Tensor, gate: Tensor, cu_seqlens: Tensor, *, backend: str = "auto") -> Tensor:
    """`kernels_reference.smooth` read forward; computed in at least float32, returned in the dtype of z."""
    choice = scan_backend(backend, z.device.type, z.dtype)
    precise = z if z.dtype == torch.float64 else z.float()
    if choice == "triton":
        # its kernel reads both ways and takes the mean; with every gate open, what it reads backward is z itself
        gates = torch.stack((gate.float(), torch.ones_like(gate, dtype=torch.float32)))
        return (2 * fused_kernels().smooth_both_ways(precise, gates) - precise).to(z.dtype)
    run = smooth_cpu if choice == "cpu" else smooth_reference
    return run(precise, gate.to(precise.dtype), cu_seqlens, False).to(z.dtype)


def smooth_both_ways(z: Tensor, gates: Tensor, cu_seqlens: Tensor, *, backend: str = "auto") -> Tensor:
    """The mean of the two directions of `kernels_reference.smooth`; computed in at least float32.

    Args:
        z: (T, D). gates: (2, T), of the direction that reads forward and of the other, 1 where it enters a sequence.

    Returns:
        (T, D), dtype of z.
    """
    choice = scan_backend(backend, z.device.type, z.dtype)
    if choice == "triton":
        fused: Tensor = fused_kernels().smooth_both_ways(z, gates.float())
        return fused
    precise = z if z.dtype == torch.float64 else z.float()
    run = smooth_cpu if choice == "cpu" else smooth_reference
    f, h = (run(precise, gates[way].to(precise.dtype), cu_seqlens, way == 1) for way in (0, 1))
    return ((f + h) / 2).to(z.dtype)


def _said(error: Exception) -> str:
    """An error as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@functools.cache
def triton_launches(device: str = "cuda") -> bool:
    """Whether Triton compiles and launches a kernel on this device type; a line says why where it does not."""
    try:
        from .kernels_triton import try_a_launch

        try_a_launch(device)
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

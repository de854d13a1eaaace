"""Which implementation runs: the one place that chooses the backends of the scan and of attention.

Scan, convolution and smoothing: `cpu` (compiled loops, float32 on the CPU) or `reference` (plain torch, anywhere);
`mamba_ssm` (CUDA) has a scan, and leaves the other two to the reference.
Attention: `flash_attn`, `torch_varlen` (both CUDA, half precision) or `sdpa`. `auto` takes the fastest that runs on
the tensors at hand. Optional libraries are looked up with importlib, so that Hugging Face's import check does not
ask for them. A further scan backend is one more entry of `_SCANS` and one more branch in `scan_backend`.
"""

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from .loops_cpu import AVAILABLE as NUMBA_AVAILABLE
from .loops_cpu import CONV_WIDTH
from .scan_cpu import conv_silu as conv_silu_cpu
from .scan_cpu import selective_scan as selective_scan_cpu
from .scan_cpu import smooth as smooth_cpu
from .scan_mamba_ssm import selective_scan as selective_scan_mamba_ssm
from .scan_reference import conv_silu as conv_silu_reference
from .scan_reference import selective_scan as selective_scan_reference
from .scan_reference import smooth as smooth_reference

SCAN_BACKENDS = ("auto", "reference", "cpu", "mamba_ssm")
ATTENTION_BACKENDS = ("auto", "flash_attn", "torch_varlen", "sdpa")

_SCANS: dict[str, Callable[..., Tensor]] = {
    "reference": selective_scan_reference,
    "cpu": selective_scan_cpu,
    "mamba_ssm": selective_scan_mamba_ssm,
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
        elif device == "cuda" and dtype != torch.float64 and mamba_ssm_works():
            choice = "mamba_ssm"
        else:
            choice = "reference"
            if dtype != torch.float64:
                missing = "numba is not installed" if device == "cpu" else "mamba-ssm is not installed"
                _warn_once(f"{missing}: the selective scan runs as a plain torch loop, slow for training")
    elif requested == "cpu":
        if not NUMBA_AVAILABLE:
            raise ValueError("scan_backend 'cpu' needs numba: pip install numba, or set scan_backend to 'auto'")
        if device != "cpu":
            raise ValueError(f"scan_backend 'cpu' cannot run on {device}: set scan_backend to 'auto'")
        choice = "cpu" if dtype != torch.float64 else "reference"
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
    """Selective scan, shapes as `scan_reference.selective_scan`; returns the dtype of u.

    States are kept in at least float32: lower precisions are computed in float32 and rounded at the end.
    """
    dtype = u.dtype
    u, delta, A, B, C, D = (x if x.dtype == torch.float64 else x.float() for x in (u, delta, A, B, C, D))
    choice = scan_backend(backend, u.device.type, u.dtype)
    return _SCANS[choice](u, delta, A, B, C, D, cu_seqlens, reverse).to(dtype)


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, *, reverse: bool, backend: str = "auto"
) -> Tensor:
    """Depthwise convolution and SiLU, shapes as `scan_reference.conv_silu`; returns the dtype of x."""
    if scan_backend(backend, x.device.type, x.dtype) == "cpu" and weight.shape[1] == CONV_WIDTH:
        return conv_silu_cpu(x.float(), weight.float(), bias.float(), cu_seqlens, reverse).to(x.dtype)
    return conv_silu_reference(x, weight, bias, cu_seqlens, reverse)


def smooth(z: Tensor, gate: Tensor, cu_seqlens: Tensor, *, reverse: bool, backend: str = "auto") -> Tensor:
    """One direction of gated smoothing, shapes as `scan_reference.smooth`; float32 or float64 in and out."""
    run = smooth_cpu if scan_backend(backend, z.device.type, z.dtype) == "cpu" else smooth_reference
    return run(z, gate, cu_seqlens, reverse)

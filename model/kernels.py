"""Which implementation runs: the one place that chooses the backends of the scan and of attention.

Scan, convolution and smoothing: `triton` (CUDA; both directions of a layer in one launch; also the router, the norms
with their residual sums, and rotary positions); `mamba_ssm` (CUDA; a scan only, the other two as in `chunked`); `cpu`
(compiled loops, float32 on the CPU); `chunked` (plain torch, all blocks of time at once; any device); `reference`
(plain torch, position by position; what tests compare with). Attention: `flash_attn_3` (Hopper), `flash_attn`,
`torch_varlen` (these three CUDA, half precision) or `sdpa`. `auto` takes the fastest backend that runs for the device
type and dtype. Optional libraries are looked up with importlib, so that Hugging Face's import check does not ask for
them.
"""

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kernels_chunked import selective_scan as selective_scan_chunked
from .kernels_chunked import smooth as smooth_chunked
from .kernels_cpu import conv_silu as conv_silu_cpu
from .kernels_cpu import selective_scan as selective_scan_cpu
from .kernels_cpu import smooth as smooth_cpu
from .kernels_cpu_loops import AVAILABLE as NUMBA_AVAILABLE
from .kernels_cpu_loops import CONV_WIDTH
from .kernels_mamba_ssm import selective_scan as selective_scan_mamba_ssm
from .kernels_reference import conv_silu as conv_silu_reference
from .kernels_reference import selective_scan as selective_scan_reference
from .kernels_reference import smooth as smooth_reference

_SCANS: dict[str, Callable[..., Tensor]] = {
    "reference": selective_scan_reference,
    "chunked": selective_scan_chunked,
    "cpu": selective_scan_cpu,
    "mamba_ssm": selective_scan_mamba_ssm,
    "triton": selective_scan_chunked,  # for one direction; a layer calls `fused_kernels().gated_scan` for both
}
_SMOOTHINGS: dict[str, Callable[..., Tensor]] = {"reference": smooth_reference, "cpu": smooth_cpu}  # else chunked

logger = logging.getLogger("dnachunker.kernels")


@functools.cache
def _say_once(what: str, backend: str, device: str, dtype: torch.dtype) -> None:
    logger.info("%s backend: %s (%s, %s)", what, backend, device, str(dtype).removeprefix("torch."))


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


class Backend(NamedTuple):
    """An implementation of the scan or of attention.

    Attributes:
        auto: device types on which `auto` may take it.
        lacks: from a device type and dtype, what is missing and the remedy; empty if the backend runs.
    """

    auto: tuple[str, ...]
    lacks: Callable[[str, torch.dtype], str]


def _triton_lacks(device: str, dtype: torch.dtype) -> str:
    if triton_works(device):
        return ""
    return f"needs CUDA, triton and a C compiler (device: {device}): pip install triton, and install a compiler"


def _mamba_ssm_lacks(device: str, dtype: torch.dtype) -> str:
    if device != "cuda":
        return f"needs CUDA, not {device}"
    if mamba_ssm_works():
        return ""
    return "needs mamba-ssm with its CUDA scan: MAMBA_KEEP_CUDA_BUILD=TRUE pip install mamba-ssm --no-build-isolation"


def _cpu_lacks(device: str, dtype: torch.dtype) -> str:
    if not NUMBA_AVAILABLE:
        return "needs numba: pip install numba"
    return "" if device == "cpu" else f"cannot run on {device}"


def _varlen_lacks(module: str, function: str, device: str, dtype: torch.dtype) -> str:
    if not offers(module, function):
        return f"is not installed: no function {function} in a module {module}"
    if device == "cuda" and dtype in (torch.bfloat16, torch.float16):
        return ""
    return f"needs bf16 or fp16 on CUDA, not {dtype} on {device}"


def _flash_3_lacks(device: str, dtype: torch.dtype) -> str:
    """FlashAttention-3, which its authors install from source as the module `flash_attn_interface`."""
    lack = _varlen_lacks("flash_attn_interface", "flash_attn_varlen_func", device, dtype)
    return lack or ("" if is_hopper() else "needs a Hopper GPU (H100, H200)")


def is_hopper() -> bool:
    """Whether the current GPU is of compute capability 9.0."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


# In the order in which `auto` tries them; the last one runs everywhere.
_SCAN = {
    "triton": Backend(("cuda",), _triton_lacks),
    "mamba_ssm": Backend(("cuda",), _mamba_ssm_lacks),
    "cpu": Backend(("cpu",), _cpu_lacks),
    "reference": Backend((), lambda device, dtype: ""),
    "chunked": Backend(("cuda", "cpu"), lambda device, dtype: ""),
}
_ATTENTION = {
    "flash_attn_3": Backend(("cuda",), _flash_3_lacks),
    "flash_attn": Backend(("cuda",), functools.partial(_varlen_lacks, "flash_attn", "flash_attn_varlen_func")),
    "torch_varlen": Backend(("cuda",), functools.partial(_varlen_lacks, "torch.nn.attention.varlen", "varlen_attn")),
    "sdpa": Backend(("cuda", "cpu"), lambda device, dtype: ""),
}


def _choose(what: str, backends: Mapping[str, Backend], requested: str, device: str, dtype: torch.dtype) -> str:
    *_, fallback = backends
    if requested == "auto":
        there = (name for name, backend in backends.items() if device in backend.auto)
        return next((name for name in there if not backends[name].lacks(device, dtype)), fallback)
    if requested not in backends:
        raise ValueError(f"unknown {what}_backend {requested!r}; one of {', '.join(('auto', *backends))}")
    if lack := backends[requested].lacks(device, dtype):
        raise ValueError(f"{what}_backend {requested!r} {lack}; or set {what}_backend to 'auto'")
    return requested


def scan_backend(requested: str, device: str, dtype: torch.dtype) -> str:
    """The scan backend for tensors on this device type and of this dtype; float64 runs on the reference only.

    Raises:
        ValueError: the backend asked for by name cannot run here; the message says what would make it run.
    """
    double = dtype == torch.float64
    choice = "reference" if double and requested == "auto" else _choose("scan", _SCAN, requested, device, dtype)
    if choice == "chunked" and requested == "auto":
        missing = "numba is not installed" if device == "cpu" else "triton does not run here"
        _warn_once(f"{missing}: the selective scan runs in plain torch (chunked), slower than a kernel")
    choice = "reference" if double else choice
    _say_once("scan", choice, device, dtype)
    return choice


def triton_is_interpreted() -> bool:
    """Whether Triton's kernels run step by step on the CPU, as in tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_works(device: str) -> bool:
    """Whether Triton's kernels run on this device type: on the CPU too where its interpreter is switched on."""
    if not _importable("triton"):
        return False
    if triton_is_interpreted():
        return device in ("cuda", "cpu")
    return device == "cuda" and triton_launches()


@functools.cache
def fused_kernels() -> SimpleNamespace:
    """The Triton kernels as torch functions; their files are imported only if `triton_works`."""
    from .kernels_triton_conv import conv_silu_both_ways
    from .kernels_triton_norm import sum_and_norm
    from .kernels_triton_parameters import conv_rows, parameter_rows, scan_rows
    from .kernels_triton_rotary import rotated
    from .kernels_triton_routing import boundary_probability, cut_chunks
    from .kernels_triton_scan import gated_scan, gated_scan_of_block
    from .kernels_triton_smooth import smooth_both_ways

    return SimpleNamespace(
        conv_rows=conv_rows,
        scan_rows=scan_rows,
        parameter_rows=parameter_rows,
        gated_scan=gated_scan,
        gated_scan_of_block=gated_scan_of_block,
        sum_and_norm=sum_and_norm,
        rotated=rotated,
        conv_silu_both_ways=conv_silu_both_ways,
        smooth_both_ways=smooth_both_ways,
        boundary_probability=boundary_probability,
        cut_chunks=cut_chunks,
    )


def mamba_ssm_works() -> bool:
    """Whether mamba-ssm and its CUDA scan load. After 2.3.2 a plain installation leaves the CUDA scan out."""
    return offers("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn") and offers(
        "selective_scan_cuda", "fwd"
    )


@functools.cache
def offers(module: str, function: str) -> bool:
    """Whether an optional module loads here and has this function; if the module is there but fails, a warning.

    A build for another torch does not load, and flash-attn-4 alone makes a package `flash_attn` without the function.
    """
    try:
        return hasattr(importlib.import_module(module), function)
    except Exception as error:  # ImportError of a wrong build, or whatever else the module raises as it loads
        if isinstance(error, ModuleNotFoundError) and module.startswith(error.name or module):
            return False  # not installed
        _warn_once(f"{module} is installed but does not load ({one_line(error)})")
        return False


@functools.cache
def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def attention_backend(requested: str, device: str, dtype: torch.dtype) -> str:
    """The attention backend for tensors on this device type and of this dtype.

    Raises:
        ValueError: the backend asked for by name cannot run here; the message says what would make it run.
    """
    choice = _choose("attention", _ATTENTION, requested, device, dtype)
    _say_once("attention", choice, device, dtype)
    return choice


def describe_backends(scan: str, attention: str, device: str, dtype: torch.dtype) -> str:
    """One line for the start of a log, such as `scan cpu, attention sdpa (cpu, float32)`."""
    chosen = f"scan {scan_backend(scan, device, dtype)}, attention {attention_backend(attention, device, dtype)}"
    return f"{chosen} ({device}, {str(dtype).removeprefix('torch.')})"


def precise(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


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
    u, delta, A, B, C, D = map(precise, (u, delta, A, B, C, D))
    choice = scan_backend(backend, u.device.type, u.dtype)
    return _SCANS[choice](u, delta, A, B, C, D, cu_seqlens, reverse).to(dtype)


def conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, *, reverse: bool, backend: str = "auto"
) -> Tensor:
    """Depthwise convolution and SiLU, shapes as `kernels_reference.conv_silu`; returns the dtype of x."""
    if scan_backend(backend, x.device.type, x.dtype) == "cpu" and weight.shape[1] == CONV_WIDTH:
        return conv_silu_cpu(x.float(), weight.float(), bias.float(), cu_seqlens, reverse).to(x.dtype)
    return conv_silu_reference(x, weight, bias, cu_seqlens, reverse).to(x.dtype)


def smooth(z: Tensor, gate: Tensor, cu_seqlens: Tensor, *, reverse: bool = False, backend: str = "auto") -> Tensor:
    """`kernels_reference.smooth`; computed in at least float32, returned in the dtype of z."""
    choice = scan_backend(backend, z.device.type, z.dtype)
    exact = precise(z)
    if choice == "triton":
        # the kernel returns the mean of both directions; with every gate 1, the other direction gives z
        other = torch.ones_like(gate, dtype=torch.float32)
        gates = torch.stack((other, gate.float()) if reverse else (gate.float(), other))
        return (2 * fused_kernels().smooth_both_ways(exact, gates) - exact).to(z.dtype)
    run = _SMOOTHINGS.get(choice, smooth_chunked)
    return run(exact, gate.to(exact.dtype), cu_seqlens, reverse).to(z.dtype)


def smooth_both_ways(
    z: Tensor, gates: Tensor, cu_seqlens: Tensor, residual: Tensor | None = None, hidden: Tensor | None = None, *,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """The mean of the two directions of `kernels_reference.smooth`, computed in at least float32, plus a residual.

    Args:
        z: (T, D). gates: (2, T), forward and backward; 1 where the direction enters a sequence.
        residual: (T, D) to add. hidden: (T,) bool, positions where it is not added.

    Returns:
        (T, D), dtype of z, or of the sum.
    """
    choice = scan_backend(backend, z.device.type, z.dtype)
    if choice == "triton":
        fused: Tensor = fused_kernels().smooth_both_ways(z, gates.float(), residual, hidden)
        return fused
    exact = precise(z)
    run = _SMOOTHINGS.get(choice, smooth_chunked)
    f, h = (run(exact, gates[way].to(exact.dtype), cu_seqlens, way == 1) for way in (0, 1))
    return add_shown(((f + h) / 2).to(z.dtype), residual, hidden)


def add_shown(x: Tensor, residual: Tensor | None, hidden: Tensor | None) -> Tensor:
    """x + residual, both (T, D), but x alone where hidden (T,) bool is set."""
    if residual is None:
        return x
    return x + (residual if hidden is None else residual.masked_fill(hidden.unsqueeze(-1), 0))


def one_line(error: Exception) -> str:
    """The class of an error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@functools.cache
def triton_launches(device: str = "cuda") -> bool:
    """Whether Triton compiles and launches a kernel on this device type; if not, a warning says why."""
    try:
        from .kernels_triton import try_a_launch

        try_a_launch(device)
    except Exception as error:  # from the compiler, the driver, a subprocess: all mean no
        logger.warning("triton is installed but cannot run a kernel (%s): continuing without it", one_line(error))
        return False
    return True


@functools.cache
def torch_compiles(device: str) -> bool:
    """Whether torch.compile works for this device type; if not, a warning says why."""
    try:
        torch.compile(_twice)(torch.ones(2, device=device))
    except Exception as error:  # as above
        logger.warning("torch.compile does not work here (%s): continuing without it", one_line(error))
        return False
    return True


def compiles(requested: str, device: str) -> bool:
    """Whether to compile on this device type: `on` where torch.compile works, `auto` there on CUDA only."""
    return (requested == "on" or (requested == "auto" and device == "cuda")) and torch_compiles(device)


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compile` of a function of tensors, for any number of rows."""
    result: Any = torch.compile(function, dynamic=True)
    return result  # type: ignore[no-any-return]


def _twice(x: Tensor) -> Tensor:
    return x + x

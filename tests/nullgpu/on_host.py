"""Computes every CUDA operation on the CPU, in the same memory: null GPUs keep their tensors on the host.

    with OnHost():
        main(["pretrain", ...])

All else is the real thing: torch's CUDA allocator, streams, pinned memory, the autograd engine's device threads,
ProcessGroupNCCL and DeepSpeed's CUDA accelerator. As on a GPU, operations whose tensors lie on two devices are refused.
"""

import ctypes
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from cuda_meanings import ON_CPU
from torch.utils._python_dispatch import TorchDispatchMode

# What needs no kernel: collectives, allocation and metadata.
_THROUGH = (
    "c10d::", "_c10d_functional::", "prim::", "aten::empty.", "aten::empty_strided", "aten::empty_like",
    "aten::new_empty", "aten::set_", "aten::resize_", "aten::record_stream", "aten::_pin_memory", "aten::is_pinned",
    "aten::detach", "aten::lift_fresh", "aten::_reshape_alias", "aten::_unsafe_view", "aten::alias",
)  # fmt: skip
_TAKES_CPU_INDICES = ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put")


class OnHost(TorchDispatchMode):
    """While it is on, CUDA operations of this thread and of its backward passes run on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, through = _known(func)
        if name == "c10d::barrier":
            return _barrier(func, args, kwargs)
        tensors: list[torch.Tensor] = []
        _collect(args, tensors)
        _collect(kwargs.values(), tensors)
        asked = kwargs.get("device")
        to_cuda = asked is not None and torch.device(asked).type == "cuda"
        if through or not (to_cuda or any(x.is_cuda for x in tensors)):
            return func(*args, **kwargs)
        if name == "aten::copy_":
            to, source = args[:2]
            _host(to).copy_(_host(source))
            return to
        if name == "aten::_to_copy":
            return _to_copy(args[0], kwargs)
        device = _one_device(name, tensors, asked)
        return _compute(ON_CPU.get(name.partition(".")[0], func), args, kwargs, device, to_cuda=to_cuda)


@functools.cache
def _known(func: Any) -> tuple[str, bool]:
    """The operation's name, and whether it needs no kernel."""
    name = func.name()
    return name, name.startswith(_THROUGH) or (func.is_view and name != "aten::_to_copy")


def _collect(values: Iterable[Any], tensors: list[torch.Tensor]) -> None:
    for value in values:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            _collect(value, tensors)


def _barrier(func: Any, args: Any, kwargs: Any) -> Any:
    """NCCL's barrier is an all-reduce of a number that is filled in below this mode, and that nobody reads."""
    runtime = ctypes.CDLL(None)
    runtime.nullgpu_ignore_launches(1)
    try:
        return func(*args, **kwargs)
    finally:
        runtime.nullgpu_ignore_launches(0)


def _host(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor over the same memory."""
    if not tensor.is_cuda:
        return tensor
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    raw = _memory(storage.data_ptr(), storage.nbytes())
    return torch.empty(0, dtype=tensor.dtype).set_(raw, tensor.storage_offset(), tensor.size(), tensor.stride())


@functools.lru_cache(4096)
def _memory(address: int, count: int) -> torch.UntypedStorage:
    """The bytes at an address; asked for only while a CUDA storage holds them."""
    buffer = (ctypes.c_char * count).from_address(address)
    return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()


def _upload(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    there = torch.empty_strided(host.size(), host.stride(), dtype=host.dtype, device=device)
    _host(there).copy_(host)
    return there


def _to_copy(source: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    device = torch.device(kwargs.get("device") or source.device)
    layout = kwargs.get("memory_format") or torch.preserve_format
    copy = _host(source).to(kwargs.get("dtype") or source.dtype, copy=True, memory_format=layout)
    return _upload(copy, device) if device.type == "cuda" else copy


def _one_device(name: str, tensors: list[torch.Tensor], asked: Any) -> torch.device:
    """The CUDA device of an operation.

    Raises:
        RuntimeError: its tensors lie on several devices. A CPU tensor without dimensions is a number.
    """
    devices = {x.device for x in tensors if x.is_cuda}
    if devices and name not in _TAKES_CPU_INDICES:
        devices |= {x.device for x in tensors if x.device.type == "cpu" and x.dim() > 0}
    if len(devices) > 1:
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, found {sorted(map(str, devices))}")
    device = devices.pop() if devices else torch.device(asked)
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


def _compute(run: Callable[..., Any], args: Any, kwargs: Any, device: torch.device, *, to_cuda: bool) -> Any:
    given: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # host aliases, kept alive, with what they stand for
    stays = kwargs.get("device") is not None and not to_cuda

    def down(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            if not x.is_cuda:
                return x
            alias = _host(x)
            given[id(alias)] = alias, x
            return alias
        return type(x)(map(down, x)) if isinstance(x, list | tuple) else x

    def up(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(map(up, x))
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in given:  # computed in place
            return given[id(x)][1]
        return x if stays or x.device.type == "meta" else _upload(x, device)

    on_cpu = {key: "cpu" if key == "device" and to_cuda else down(value) for key, value in kwargs.items()}
    return up(run(*down(args), **on_cpu))  # the mode is off in here

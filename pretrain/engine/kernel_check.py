"""Runs every kernel that a run uses before its first step, and replaces those that fail.

A kernel may not compile on a GPU, or give wrong numbers there. So each kernel computes results and gradients of a small
ragged batch, in the precision of the run, and these are compared with plain torch. If a kernel fails on any rank, all
ranks use plain torch instead, unless the user has asked for that backend by name.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dnachunker.foundations.failures import BadInput, BadInputOnAllRanks
from dnachunker.model import kernels
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.pretrain.config import EngineSettings, ModelSettings

from .build_model import compute_dtype
from .kernel_cases import Compared, attention_cases, relative_error, scan_cases
from .ranks import Rank

# Largest error allowed, relative to the largest value of a tensor. Rounding gives less than half of it.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
PLAIN = {"scan": "chunked", "attention": "sdpa"}  # what replaces a backend; these run everywhere


@dataclass(frozen=True)
class Fault:
    """A kernel that failed on one rank.

    Attributes:
        kind: `scan` or `attention`: the setting that chooses the kernel is `engine.{kind}_backend`.
        found: the kernel, what is wrong and on which device, in one sentence.
    """

    kind: str
    found: str


@dataclass(frozen=True)
class CheckedKernels:
    """What the check of all ranks found.

    Attributes:
        settings: the run's settings, in which plain torch replaces the backends that failed.
        faults: one line each.
        seconds: how long the check took on this rank.
    """

    settings: EngineSettings
    faults: tuple[str, ...]
    seconds: float

    def as_event(self, device: str, dtype: torch.dtype) -> dict[str, Any]:
        """What the event log records: the backends in use, and what the check found."""
        scan = kernels.scan_backend(self.settings.scan_backend, device, dtype)
        attention = kernels.attention_backend(self.settings.attention_backend, device, dtype)
        return {"scan": scan, "attention": attention, "faults": self.faults, "seconds": round(self.seconds, 3)}


def settle_backends(settings: EngineSettings, model: ModelSettings, rank: Rank) -> CheckedKernels:
    """Check the kernels on every rank, and decide which backends all ranks use; collective.

    Raises:
        BadInputOnAllRanks: a backend that the settings name cannot run, or fails the check, on some rank.
        BadInput: a kernel has left this rank's GPU unusable.
    """
    began = time.perf_counter()
    refused, faults = "", list[Fault]()
    try:
        faults = find_faults(settings, model, rank.device)
    except ValueError as error:
        refused = f"engine.{error}"
    every = rank.gather((refused, faults))
    if refused := next((line for line, _ in every if line), ""):
        raise BadInputOnAllRanks(refused)
    lines, replaced = [], {}
    for number, (_, faults) in enumerate(every):
        for fault in faults:
            key, instead = f"{fault.kind}_backend", PLAIN[fault.kind]
            if getattr(settings, key) != "auto":
                raise BadInputOnAllRanks(f"engine.{key}: rank {number}: {fault.found}; set engine.{key} to {instead}")
            lines.append(f"rank {number}: {fault.found}; all ranks use {key} {instead} instead")
            replaced[key] = instead
    return CheckedKernels(settings.model_copy(update=replaced), tuple(lines), time.perf_counter() - began)


def find_faults(settings: EngineSettings, model: ModelSettings, device: torch.device) -> list[Fault]:
    """The kernels that fail on this device. Plain torch is not checked.

    Raises:
        ValueError: a backend that the settings name cannot run on this device; the message gives a remedy.
        BadInput: a kernel has left the GPU unusable, so that nothing can replace that kernel in this process.
    """
    dtype = compute_dtype(settings)
    network = DNAChunkerConfig(**model.model_dump())
    chosen = {
        "scan": kernels.scan_backend(settings.scan_backend, device.type, dtype),
        "attention": kernels.attention_backend(settings.attention_backend, device.type, dtype),
    }
    faults = []
    weights = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    of_scan = partial(scan_cases, weights=weights)
    for kind, cases in (("scan", of_scan), ("attention", attention_cases)):
        if chosen[kind] in (PLAIN[kind], "reference"):
            continue
        for name, compare in cases(chosen[kind], network, dtype, device):
            if wrong := _what_is_wrong(compare, TOLERANCE[dtype]):
                faults.append(Fault(kind, f"{name} kernel of {chosen[kind]} {wrong} on {_name(device)}"))
                _require_usable(device, faults[-1])
    return faults


def _what_is_wrong(compare: Callable[[], Compared], tolerance: float) -> str:
    """What is wrong with a kernel; empty if nothing is."""
    try:
        errors = [relative_error(ours, theirs) for ours, theirs in compare()]
    except Exception as error:  # of the compiler, the driver or the library
        return f"does not run ({kernels.one_line(error)})"
    wrong = [(index, found) for index, found in enumerate(errors) if not found <= tolerance]
    if not wrong:
        return ""
    index, found = wrong[0]
    where = f"gradient {index}" if index else "result"
    return f"differs from plain torch ({where}: by {found:.2g} of the largest value, more than {tolerance:g})"


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device.type} ({platform.machine()})"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"


def _require_usable(device: torch.device, fault: Fault) -> None:
    """An illegal memory access ends every later call on that GPU."""
    try:
        torch.ones(1, device=device).item()
    except RuntimeError as error:
        key = f"engine.{fault.kind}_backend"
        raise BadInput(f"{fault.found}, and left the GPU unusable; set {key} to {PLAIN[fault.kind]}") from error

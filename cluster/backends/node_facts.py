"""Measures facts of this machine for the doctor (cluster/doctor.py), which judges them."""

import os
import resource
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from .local import available_cores, visible_gpus
from .versions import versions

_PROBE_BYTES = 64 << 20  # size of the file that is written and read to time the storage
_GPU_QUERY = "index,name,ecc.errors.uncorrected.volatile.total,pcie.link.width.current,pcie.link.width.max"


def gather(folder: str, tracker: str | None = None) -> dict[str, Any]:
    """Facts of this machine.

    Args:
        folder: on the storage that all machines share; a probe file of 64 MiB is written, read and removed there.
        tracker: host:port of the MLflow server, if there is one.

    Returns:
        Sizes in bytes, rates in bytes a second, `clock` in seconds. A text that describes a fault is empty without one.
    """
    return {
        "host": socket.gethostname(),
        "versions": versions(),
        "cores": available_cores(),
        "gpus": _gpus(),
        "shared_memory_free": shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "locked_memory": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "can_listen": _can_listen(),
        "tracker": _connects(tracker) if tracker else None,
        **_storage(Path(folder)),
    }


def _gpus() -> list[dict[str, str]]:
    if not visible_gpus():
        return []
    argv = ["nvidia-smi", f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader"]
    try:
        listed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return [{"index": index, "fault": f"nvidia-smi: {type(error).__name__}"} for index in visible_gpus()]
    found = []
    for line in listed.splitlines():
        index, name, errors, width, most = (field.strip() for field in line.split(","))
        fault = ""
        if errors.isdecimal() and int(errors):
            fault = f"{errors} uncorrected memory errors"
        elif width.isdecimal() and most.isdecimal() and int(width) < int(most):
            fault = f"PCIe runs on {width} of {most} lanes"
        found.append({"index": index, "name": name, "fault": fault})
    return found


def _storage(folder: Path) -> dict[str, Any]:
    """Free bytes, rates of a synced write and of a read, and by how much this clock is ahead of the file server's."""
    probe = folder / f".probe-{socket.gethostname()}-{os.getpid()}"
    content = os.urandom(1 << 20)
    try:
        began = time.perf_counter()
        with probe.open("wb") as file:
            for _ in range(_PROBE_BYTES >> 20):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        wrote = time.perf_counter() - began
        probe.touch()
        skew = time.time() - probe.stat().st_mtime
        began = time.perf_counter()
        probe.read_bytes()
        read = time.perf_counter() - began
    except OSError as error:
        return {"storage_fault": f"{folder}: {error.strerror}"}
    finally:
        probe.unlink(missing_ok=True)
    return {
        "storage_fault": "",
        "disk_free": shutil.disk_usage(folder).free,
        "write_rate": _PROBE_BYTES / wrote,
        "read_rate": _PROBE_BYTES / read,
        "clock": skew,
    }


def _can_listen() -> bool:
    try:
        socket.create_server(("", 0)).close()
    except OSError:
        return False
    return True


def _connects(address: str) -> str:
    """An empty text when a TCP connection is possible, otherwise the reason why not."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""

"""How much host memory is free."""

import contextlib
from pathlib import Path

import psutil

_CONTAINER_MEMORY = (  # cgroups, version 2 and version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes() -> int:
    """Bytes of memory that this machine, or the container that limits this process, still has."""
    free = psutil.virtual_memory().available
    for limit, used in _CONTAINER_MEMORY:
        with contextlib.suppress(OSError, ValueError):  # no such controller, or no limit
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(free, 0)

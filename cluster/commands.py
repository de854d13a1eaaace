"""Config to argv and environment, and nothing else: pure functions, so that what would run can be shown and tested."""

import base64
import json
import socket
from collections.abc import Mapping, Sequence

_LOOPBACK = "127.0.0.1"


def launcher_command(worker: Sequence[str], devices: Sequence[str], *, port: int | None = None) -> list[str]:
    """Arguments for the Python interpreter that start one local rank for each device through DeepSpeed's launcher.

    Args:
        worker: module name and arguments, as after `python -m`.
        devices: names for CUDA_VISIBLE_DEVICES, which the launcher overwrites; any names on a CPU.
        port: rendezvous port on loopback; default: a free one.
    """
    ranks = json.dumps({"localhost": list(devices)})
    return [
        "-m", "deepspeed.launcher.launch",
        "--log_level=critical",  # its own account of an exit code 3 reads like a failure; ours is printed instead
        f"--world_info={base64.urlsafe_b64encode(ranks.encode()).decode()}",
        "--node_rank=0",
        f"--master_addr={_LOOPBACK}",
        f"--master_port={port or free_port()}",
        "--no_local_rank",
        "--module",
        *worker,
    ]  # fmt: skip


def worker_environment(environment: Mapping[str, str], processes: int, *, cores: int, gpus: int) -> dict[str, str]:
    """The ranks' environment: the caller's, with the cores shared out and the device named unless the caller did."""
    variables = dict(environment)
    variables.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    variables.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of one rank starve another
    variables["PYTHONSAFEPATH"] = "1"  # a folder named `model` in the current directory must not be taken for ours
    if not gpus:
        variables.setdefault("DS_ACCELERATOR", "cpu")  # else every process warns that it found no GPU
    return variables


def free_port() -> int:
    """A TCP port nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])

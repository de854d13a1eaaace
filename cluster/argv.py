"""Config to argv and environment, and nothing else: pure functions, so that what would run can be shown and tested."""

import base64
import fnmatch
import json
import shlex
import socket
from collections.abc import Mapping, Sequence

from .config import HostsSettings
from .topology import Placement

_LOOPBACK = "127.0.0.1"
_KEEPALIVES = 3  # ssh gives up one interval after so many went unanswered


def launcher_command(worker: Sequence[str], devices: Sequence[str], placement: Placement) -> list[str]:
    """Arguments for the Python interpreter that start this machine's ranks through DeepSpeed's launcher.

    Args:
        worker: module name and arguments, as after `python -m`.
        devices: names for CUDA_VISIBLE_DEVICES, which the launcher overwrites; any names on a CPU.
        placement: which of the job's machines this is; port 0 takes a free one.
    """
    # of other machines only the number of ranks matters
    ranks = {f"node-{node}": list(devices) for node in range(placement.nodes)}
    return [
        "-m", "deepspeed.launcher.launch",
        "--log_level=critical",  # its own account of an exit code 3 reads like a failure; ours is printed instead
        f"--world_info={base64.urlsafe_b64encode(json.dumps(ranks).encode()).decode()}",
        f"--node_rank={placement.node_rank}",
        f"--master_addr={placement.address}",
        f"--master_port={placement.port or free_port()}",
        "--no_local_rank",
        "--module",
        *worker,
    ]  # fmt: skip


def worker_environment(environment: Mapping[str, str], processes: int, *, cores: int, gpus: int) -> dict[str, str]:
    """The ranks' environment: the caller's, with the cores shared out and the device named unless the caller did."""
    variables = dict(environment)
    variables.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    variables.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of one rank starve another
    if not gpus:
        variables.setdefault("DS_ACCELERATOR", "cpu")  # else every process warns that it found no GPU
    return variables


def free_port() -> int:
    """A TCP port nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def ssh_command(host: str, settings: HostsSettings, *, python: str, workdir: str) -> list[str]:
    """The argv that starts an agent (backends/ssh_agent.py) on a host; what it is to do follows on its standard input.

    Args:
        host: a name that `topology.require_host_name` let pass.
        python: interpreter on the host.
        workdir: folder that relative paths of the run start from.
    """
    interval = max(1, int(settings.lost_seconds / (_KEEPALIVES + 1)))
    # the remote shell takes a command line, so this is the one place that needs quoting
    # PYTHONSAFEPATH: files in `workdir` that are named like modules must not be taken for them, nor by the ranks
    agent = f"{shlex.quote(python)} -m dnachunker.cluster.backends.ssh_agent"
    remote = f"cd {shlex.quote(workdir)} && exec env PYTHONSAFEPATH=1 {agent}"
    own = [
        "BatchMode=yes", f"ConnectTimeout={max(1, int(settings.connect_seconds))}",
        f"ServerAliveInterval={interval}", f"ServerAliveCountMax={_KEEPALIVES}",
        "ControlMaster=no", "ControlPath=none",  # a shared connection has its own keepalives and ignores these
    ]  # fmt: skip
    # ssh takes the first value it is given for a key
    options = [f"-o{option}" for option in (*settings.ssh_options, *own)]
    return ["ssh", "-T", *options, "--", host, remote]


def passed_variables(environment: Mapping[str, str], patterns: Sequence[str]) -> dict[str, str]:
    """The variables of `environment` whose names match one of the patterns."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }

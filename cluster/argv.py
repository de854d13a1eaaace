"""The argv and the environment of other processes, computed from configs by pure functions.

Nothing is started here (`free_port` probes a port), so that --dry-run can print a command line and tests can check it.
"""

import base64
import fnmatch
import json
import shlex
import socket
from collections.abc import Mapping, Sequence

from .config import HostsSettings
from .topology import Placement

_LOOPBACK = "127.0.0.1"
_KEEPALIVES = 3  # ssh gives up one interval after this many unanswered keepalives


def launcher_argv(worker: Sequence[str], devices: Sequence[str], placement: Placement) -> list[str]:
    """Arguments of the Python interpreter that start this machine's ranks through DeepSpeed's launcher.

    Args:
        worker: module name and arguments, as after `python -m`.
        devices: one name for each rank; the launcher writes them to CUDA_VISIBLE_DEVICES. On a CPU any names do.
        placement: this machine's place in the job; port 0 takes a free port.
    """
    # the launcher reads only the number of devices of the other machines
    ranks = {f"node-{node}": list(devices) for node in range(placement.nodes)}
    return [
        "-m", "dnachunker.cluster.deepspeed_launcher",
        "--log_level=critical",  # the launcher would report exit code 3 as a failure; we print our own message
        f"--world_info={base64.urlsafe_b64encode(json.dumps(ranks).encode()).decode()}",
        f"--node_rank={placement.node_rank}",
        f"--master_addr={placement.address}",
        f"--master_port={placement.port or free_port()}",
        "--no_local_rank",
        "--module",
        *worker,
    ]  # fmt: skip


def worker_environment(environment: Mapping[str, str], processes: int, *, cores: int, gpus: int) -> dict[str, str]:
    """The ranks' environment: the caller's variables, plus threads a rank and the accelerator where these are not set.

    Args:
        processes: ranks on this machine.
        cores: CPU cores on this machine, divided among the ranks.
        gpus: visible GPUs; without one, DeepSpeed is told to use the CPU.
    """
    variables = dict(environment)
    variables.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    variables.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait take cores from other ranks
    if not gpus:
        variables.setdefault("DS_ACCELERATOR", "cpu")  # otherwise every process warns that it found no GPU
    return variables


def free_port() -> int:
    """A TCP port on which no process listens at the moment of the call."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def ssh_argv(host: str, settings: HostsSettings, *, python: str, workdir: str) -> list[str]:
    """The argv that starts backends/ssh_agent.py on a host. The agent reads its orders from standard input.

    Args:
        host: a name that `topology.require_host_name` accepts.
        python: path of the Python interpreter on the host.
        workdir: folder on the host to which relative paths of the run refer.
    """
    interval = max(1, int(settings.lost_seconds / (_KEEPALIVES + 1)))
    # the remote shell splits one string into words, so this is the only place that needs quoting
    # PYTHONSAFEPATH: neither the agent nor the ranks may import a file of `workdir` that has a module's name
    agent = f"{shlex.quote(python)} -m dnachunker.cluster.backends.ssh_agent"
    remote = f"cd {shlex.quote(workdir)} && exec env PYTHONSAFEPATH=1 {agent}"
    own = [
        "BatchMode=yes", f"ConnectTimeout={max(1, int(settings.connect_seconds))}",
        f"ServerAliveInterval={interval}", f"ServerAliveCountMax={_KEEPALIVES}",
        "ControlMaster=no", "ControlPath=none",  # a shared connection would ignore the keepalive options above
    ]  # fmt: skip
    # ssh uses the first value it reads for a key, so the user's options come first
    options = [f"-o{option}" for option in (*settings.ssh_options, *own)]
    return ["ssh", "-T", *options, "--", host, remote]


def passed_variables(environment: Mapping[str, str], patterns: Sequence[str]) -> dict[str, str]:
    """The variables of `environment` whose names match one of the patterns."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }

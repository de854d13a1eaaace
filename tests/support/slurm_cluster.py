"""A real SLURM on this machine: one controller, several node daemons and their own munge, all on loopback."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

_NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "srun")
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=60
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5
KillWait=60
ReturnToService=2
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """A SLURM cluster; commands with the variables `environment` use it, through SLURM_CONF."""

    def __init__(self, folder: Path, nodes: int) -> None:
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        missing = [name for name in _NEEDED if not shutil.which(name, path=path)]
        if missing or os.geteuid():
            pytest.skip(f"a SLURM of our own needs root and: {', '.join(missing) or 'nothing else'}")
        self._folder, self._nodes, self._path = folder, nodes, path
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> "SlurmCluster":
        folder = self._folder
        ports = _free_ports(1 + self._nodes)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        (folder / "slurm.conf").write_text(
            _CONF.format(
                folder=folder,
                host=socket.gethostname(),
                port=ports[0],
                nodes=self._nodes,
                first=ports[1],
                last=ports[-1],
            )
        )
        for name in ("pid", "seed", "log"):
            (folder / f"munge.{name}").touch(mode=0o600)
        try:
            self._start(
                "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
                f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munge.log",
            )  # fmt: skip
            self._until(lambda: (folder / "munge.socket").exists())
            self._start("slurmctld", "-D")
            for number in range(1, self._nodes + 1):
                self._start("slurmd", "-D", "-N", f"n{number}")
            self._until(lambda: self.run("sinfo", "-h", "-o", "%D %T").split() == [str(self._nodes), "idle"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.run("scancel", "--state=RUNNING,PENDING", "--me")
            time.sleep(1)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def run(self, *command: str) -> str:
        """Run a SLURM command; returns its output."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        shown = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(field.partition("=")[::2] for field in shown.split())

    def _start(self, *command: str) -> None:
        self._daemons.append(
            subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL,
                             stdout=(self._folder / "daemons.log").open("ab"), stderr=subprocess.STDOUT)
        )  # fmt: skip

    def _until(self, met: object, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not met():  # type: ignore[operator]
            assert time.monotonic() < deadline, "".join(p.read_text() for p in sorted(self._folder.glob("*.log")))
            assert all(daemon.poll() is None for daemon in self._daemons), (self._folder / "daemons.log").read_text()
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """`count` consecutive free TCP ports."""
    for first in range(20000 + os.getpid() % 9000, 32000, count):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(first, first + count))
    raise AssertionError("no free ports")

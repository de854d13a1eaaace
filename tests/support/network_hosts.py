"""Simulated machines: network namespaces on a bridge, each with its own address, process tree and sshd.

They share this machine's file system, like the machines of a cluster share their storage. `down` kills all processes of
a host at once, like a power cut; `cut` takes the network link away and leaves the processes running.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

_LETTERS = itertools.cycle("abcdefghij")  # new names for each test, because devices of killed hosts vanish late
_NEEDED = ("sshd", "ssh", "ssh-keygen", "ip", "unshare")


class NetworkHosts:
    """`count` hosts named h1, h2, …, which this process can reach by ssh with `ssh_options`."""

    def __init__(self, folder: Path, count: int) -> None:
        missing = [name for name in _NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
        if missing or os.geteuid():
            pytest.skip(f"hosts as network namespaces need root and: {', '.join(missing) or 'nothing else'}")
        self._folder, self._processes = folder, {}
        self._tag = f"dn{os.getpid() % 10000}{next(_LETTERS)}"
        self._subnet = f"10.{66 + os.getpid() % 100}.{os.getpid() % 250}"
        self.names = [f"h{number}" for number in range(1, count + 1)]
        self.addresses = {name: f"{self._subnet}.{number}" for number, name in enumerate(self.names, 1)}
        self._etc: list[Path] = []

    def __enter__(self) -> "NetworkHosts":
        try:
            _run("ip", "link", "add", f"{self._tag}br", "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr}")
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            with contextlib.suppress(KeyError):
                self.down(name)
            subprocess.run(["ip", "link", "delete", f"{self._space(name)}v"], capture_output=True)
            subprocess.run(["ip", "netns", "delete", self._space(name)], capture_output=True)
        subprocess.run(["ip", "link", "delete", f"{self._tag}br"], capture_output=True)
        for etc in self._etc:
            shutil.rmtree(etc, ignore_errors=True)

    def _build(self) -> None:
        _run("ip", "address", "add", f"{self._subnet}.254/24", "dev", f"{self._tag}br")
        _run("ip", "link", "set", f"{self._tag}br", "up")
        key = self._folder / "key"
        for file in (key, self._folder / "host_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file))
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd needs this folder for privilege separation
        (self._folder / "sshd_config").write_text(
            f"HostKey {self._folder}/host_key\nAuthorizedKeysFile {key}.pub\nStrictModes no\nPidFile none\n"
            "PermitRootLogin yes\nPasswordAuthentication no\nUsePAM no\n"
        )
        listed = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        for name, address in self.addresses.items():
            space, etc = self._space(name), Path("/etc/netns") / self._space(name)
            etc.mkdir(parents=True, exist_ok=True)
            self._etc.append(etc)
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n{listed}")
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", f"{space}v", "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", f"{space}v", "master", f"{self._tag}br", "up")
            _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", device, "up")
            self.up(name)

    @property
    def ssh_options(self) -> list[str]:
        """Values for cluster.hosts.ssh_options: the key, and a list of known hosts for this test only."""
        return [
            f"IdentityFile={self._folder / 'key'}", "StrictHostKeyChecking=no", "LogLevel=ERROR",
            f"UserKnownHostsFile={self._folder / 'known'}",
        ]  # fmt: skip

    def up(self, name: str) -> None:
        """Start a host; its first process is an sshd."""
        space = self._space(name)
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin")
        self._processes[name] = subprocess.Popen(
            ["ip", "netns", "exec", space, "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
             "sh", "-c", f"hostname {name}; exec {sshd} -D -e -f {self._folder}/sshd_config"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self._folder / f"{name}.log").open("a"),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not _answers(self.addresses[name]):
            assert time.monotonic() < deadline, (self._folder / f"{name}.log").read_text()
            time.sleep(0.05)

    def down(self, name: str) -> None:
        """Kill every process of a host."""
        process = self._processes.pop(name)
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()

    def cut(self, name: str) -> None:
        """Disconnect a host from the network."""
        _run("ip", "link", "set", f"{self._space(name)}v", "down")

    def mend(self, name: str) -> None:
        """Connect a host to the network again."""
        _run("ip", "link", "set", f"{self._space(name)}v", "up")

    def ranks(self, name: str) -> list[psutil.Process]:
        """The training ranks that run on a host."""
        found = []
        for child in psutil.Process(self._processes[name].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "RANK" in child.environ() and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def _space(self, name: str) -> str:
        return f"{self._tag}{name}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _answers(address: str) -> bool:
    import socket

    try:
        socket.create_connection((address, 22), timeout=1).close()
    except OSError:
        return False
    return True

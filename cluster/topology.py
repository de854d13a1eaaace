"""Which machines take part in a job, and which ranks run on each; no function here starts anything."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnachunker.foundations.failures import BadInput

# DNS names, IPv4 and IPv6 addresses. A leading dash is refused, because ssh would read an option; so is every character
# that has a meaning in a shell.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,39}")
_LINE = re.compile(r"(?P<name>\S+)(?:\s+slots=(?P<slots>\S+))?")


@dataclass(frozen=True)
class Host:
    """A machine and the number of ranks it has room for; None if the hostfile does not say."""

    name: str
    slots: int | None = None


@dataclass(frozen=True)
class Placement:
    """One machine's place in a job; every machine runs the same number of ranks.

    Attributes:
        address: host of the rendezvous, which is on node 0.
        port: TCP port of the rendezvous; 0 takes a free one.
    """

    nodes: int
    node_rank: int
    ranks_per_node: int
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


def parse_hostfile(text: str, origin: str) -> list[Host]:
    """The machines of a hostfile, in DeepSpeed's format: one `NAME slots=N` on each line, `#` starts a comment.

    Raises:
        BadInput: a wrong host name, a host that is listed twice, slots that are not a positive number, or no host at
            all. The message names the line.
    """
    hosts: dict[str, Host] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        where = f"{origin}:{number}"
        match = _LINE.fullmatch(line)
        if not match:
            raise BadInput(f"{where}: {line!r} is not `NAME slots=N`, with nothing else on the line")
        name, slots = match["name"], match["slots"]
        require_host_name(name, where)
        if slots is not None and not (slots.isascii() and slots.isdecimal() and 0 < int(slots) <= 1024):
            raise BadInput(f"{where}: slots={slots} of {name} is not a number of ranks from 1 to 1024")
        if name in hosts:
            raise BadInput(f"{where}: {name} is listed twice; write one line for {name}, with all its slots")
        hosts[name] = Host(name, int(slots) if slots else None)
    if not hosts:
        raise BadInput(f"{origin}: names no machine; write one line `NAME slots=N` for each machine")
    return list(hosts.values())


def read_hostfile(path: str) -> list[Host]:
    """The machines of the hostfile at `path`.

    Raises:
        BadInput: as `parse_hostfile`; also when the file is missing. (DeepSpeed would train on this machine alone.)
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadInput(f"hostfile {path}: cannot be read ({reason}); name one with cluster.hosts.hostfile") from error
    return parse_hostfile(text, path)


def require_host_name(name: str, where: str) -> None:
    """
    Raises:
        BadInput: `name` is not a host name or address; ssh or a shell might read it as an option or a command.
    """
    if not _HOST.fullmatch(name):
        user, _, host = name.rpartition("@")
        host, _, port = host.rpartition(":") if host.count(":") == 1 else (host, "", "")
        remedy = ""
        if _HOST.fullmatch(host) and (user or port):  # an address as ssh's command line takes it
            options = [f"User={user}"] * bool(user) + [f"Port={port}"] * bool(port)
            remedy = f"; write {host}, and set cluster.hosts.ssh_options=[{','.join(options)}], or use ~/.ssh/config"
        elif "%" in name:
            remedy = "; name an interface in ~/.ssh/config, or use an address that needs none"
        raise BadInput(
            f"{where}: {name!r} is not a host name (letters and digits, with dots and dashes between them) "
            f"and not an IP address{remedy}"
        )


def ranks_per_node(slots: Mapping[str, int], wanted: int | None) -> int:
    """The number of ranks on each machine: `wanted`, or by default the slots of the smallest machine.

    Args:
        slots: ranks that each machine has room for, by name.

    Raises:
        BadInput: a machine has room for fewer than `wanted`.
    """
    name, least = min(slots.items(), key=lambda item: item[1])
    if wanted and wanted > least:
        raise BadInput(f"{name} has room for {least} ranks (its GPUs, or slots in the hostfile), fewer than {wanted}")
    return wanted or least


def largest_job(
    available: Sequence[str], *, wanted: int, least: int, divides: Callable[[int], bool]
) -> Sequence[str] | None:
    """The machines to train on: the largest number of available ones among which the run's batches can be divided.

    Args:
        available: names, in order of preference.
        wanted: most machines to take.
        least: fewest machines to take.
        divides: whether the run's batches can be divided among a given number of machines.

    Returns:
        The first machines of `available`; None when too few are available.
    """
    for count in range(min(wanted, len(available)), least - 1, -1):
        if divides(count):
            return available[:count]
    return None


def job_exit_code(codes: Sequence[int]) -> int:
    """One exit code for a whole job: 2 or 4 (no restart) if a rank has it, else a crash, else 3, else 0."""
    for code in (2, 4):
        if code in codes:
            return code
    crashes = [code for code in codes if code not in (0, 3)]
    return crashes[0] if crashes else max(codes, default=0)

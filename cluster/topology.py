"""Which machines take part and which rank runs where. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnachunker.foundations.failures import BadInput

# Names and addresses as DNS, IPv4 and IPv6 have them: no dash in front, which ssh would read as an option, and nothing
# a shell gives a meaning.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,39}")
_LINE = re.compile(r"(?P<name>\S+)(?:\s+slots=(?P<slots>\S+))?")


@dataclass(frozen=True)
class Host:
    """A machine and how many ranks it has room for; None where the machine is to say."""

    name: str
    slots: int | None = None


@dataclass(frozen=True)
class Placement:
    """One machine's share of a job; every machine runs the same number of ranks."""

    nodes: int
    node_rank: int
    ranks_per_node: int
    address: str = "127.0.0.1"  # of the rendezvous, on node 0
    port: int = 0

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


def parse_hostfile(text: str, origin: str) -> list[Host]:
    """The machines of a hostfile, in DeepSpeed's format: `NAME slots=N` a line, `#` starts a comment.

    Raises:
        BadInput: naming the line: a name that is none, a duplicate, slots that are no positive number, or no machine.
    """
    hosts: dict[str, Host] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        where = f"{origin}:{number}"
        match = _LINE.fullmatch(line)
        if not match:
            raise BadInput(f"{where}: {line!r} is not `NAME slots=N`")
        name, slots = match["name"], match["slots"]
        require_host_name(name, where)
        if slots is not None and not (slots.isascii() and slots.isdecimal() and 0 < int(slots) <= 1024):
            raise BadInput(f"{where}: slots={slots} of {name} is not a number of ranks from 1 to 1024")
        if name in hosts:
            raise BadInput(f"{where}: {name} is listed twice; give it one line with all its slots")
        hosts[name] = Host(name, int(slots) if slots else None)
    if not hosts:
        raise BadInput(f"{origin}: names no machine; write one line `NAME slots=N` for each")
    return list(hosts.values())


def read_hostfile(path: str) -> list[Host]:
    """The machines of the hostfile at `path`.

    Raises:
        BadInput: as `parse_hostfile`; also when there is no such file, which never means this machine alone.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadInput(f"hostfile {path}: cannot be read ({reason}); name one with cluster.hosts.hostfile") from error
    return parse_hostfile(text, path)


def require_host_name(name: str, where: str) -> None:
    """
    Raises:
        BadInput: the name could be read as an option or a command.
    """
    if not _HOST.fullmatch(name):
        raise BadInput(f"{where}: {name!r} is not a host name: letters, digits, dots and dashes inside, or an address")


def ranks_per_node(slots: Mapping[str, int], wanted: int | None) -> int:
    """Ranks of each machine: as many as asked for, or as the smallest has room for.

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
    """The machines to continue with: all wanted if they are there, else as many as the run's sizes permit.

    Args:
        least: fewer are not worth it.
        divides: whether a run can be shared out over so many machines.

    Returns:
        None when too few are available.
    """
    for count in range(min(wanted, len(available)), least - 1, -1):
        if divides(count):
            return available[:count]
    return None


def most_telling(codes: Sequence[int]) -> int:
    """One exit code for several: those that forbid a restart before crashes, those before 3, 0 only if all are 0."""
    for code in (2, 4):
        if code in codes:
            return code
    crashes = [code for code in codes if code not in (0, 3)]
    return crashes[0] if crashes else max(codes, default=0)

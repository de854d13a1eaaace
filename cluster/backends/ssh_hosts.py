"""Kind hosts: ranks on several machines that are reached by ssh.

Every machine runs an agent (ssh_agent.py), which starts the ranks of this machine with DeepSpeed's launcher. Before any
rank starts, the agents check that all machines have the same software, see the same run folder and reach the
rendezvous. While the ranks run, both ends notice a lost connection after `lost_seconds`: this end by ssh's keepalives,
the agent because no more beats arrive.
"""

import hashlib
import json
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dnachunker.cluster.argv import passed_variables, ssh_argv
from dnachunker.cluster.config import ClusterConfig
from dnachunker.cluster.request import Request, say, worker_of
from dnachunker.cluster.restart import Attempt, supervise
from dnachunker.cluster.stop_requests import StopRequests
from dnachunker.cluster.topology import Host, Placement, job_exit_code, largest_job, ranks_per_node, read_hostfile
from dnachunker.foundations.failures import BadInput

from .ssh_agent import REACH_SECONDS, SEPARATOR

_GRACE_SECONDS = 10.0  # after the ranks of one machine ended, the others end by themselves or hang in a collective
_LOST_GRACE_SECONDS = 3.0  # after a machine was lost, the ranks of the others can only fail or hang
_SSH_FAILED = 255  # exit code of ssh when ssh itself fails, or when the remote process was killed


class HostsJob:
    """A job on the machines of a hostfile.

    Args:
        hosts: in order of preference; the first host that takes part holds the rendezvous.
        ranks: number of ranks on each machine.
        worker: module name and arguments, as after `python -m`.
        environment: variables of the ranks, secrets included; they are sent through ssh's standard input.
        files: files that every machine must see; sha256 by path.
        divides: whether the run's batches can be divided among a given number of machines.
        say: prints a line for the user.
        wanted_facts: arguments of `node_facts.gather`; the attribute `facts` then holds its results by host.
    """

    def __init__(
        self,
        cluster: ClusterConfig,
        hosts: Sequence[Host],
        ranks: int,
        worker: Sequence[str],
        *,
        environment: Mapping[str, str],
        files: Mapping[str, str],
        divides: Callable[[int], bool],
        workdir: str,
        python: str,
        stop: StopRequests,
        say: Callable[[str], None],
        wanted_facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._cluster, self._settings = cluster, cluster.hosts
        self._names, self._ranks, self._worker = [host.name for host in hosts], ranks, list(worker)
        self._environment, self._files = dict(environment), dict(files)
        self._divides, self._workdir, self._python = divides, workdir, python
        self._stop, self._say = stop, say
        self._first = True
        self._wanted_facts = wanted_facts
        self.facts: dict[str, dict[str, Any]] = {}

    def attempt(self) -> Attempt:
        """Start the job and wait for its end.

        Raises:
            BadInput: only at the first attempt: a machine cannot take part or cannot reach the others. The message
                gives the reason.
        """
        events: queue.Queue[tuple[str, Any]] = queue.Queue()
        job = {
            "environment": self._environment, "lost_seconds": self._settings.lost_seconds, "files": self._files,
            "facts": self._wanted_facts,
        }  # fmt: skip
        links: dict[str, _Link] = {}
        beating = threading.Event()
        try:
            for name in self._names:
                argv = ssh_argv(name, self._settings, python=self._python, workdir=self._workdir)
                links[name] = _Link(name, argv, events)
                links[name].send(job=job)
            threading.Thread(target=self._beat, args=(links, beating), daemon=True).start()
            chosen, unfit = self._gather(links, events)
            if self._stop.count:
                return Attempt(3, asked=True)
            if unfit and self._first:
                raise BadInput(next(iter(unfit.values())))
            if not chosen:
                return Attempt(1, "; ".join(unfit.values()) or "the batch cannot be divided among so few machines")
            for reason in unfit.values():
                self._say(f"continuing without a machine: {reason}")
            port = self._rendezvous([links[name] for name in chosen], events)
            if isinstance(port, str):
                if self._first:
                    raise BadInput(port)
                return Attempt(1, port)
            self._first = False
            for number, name in enumerate(chosen):
                placement = Placement(len(chosen), number, self._ranks, chosen[0], port)
                links[name].send(go={"worker": self._worker, "placement": asdict(placement)})
            self._say(f"{len(chosen) * self._ranks} ranks on {', '.join(chosen)}; rendezvous {chosen[0]}:{port}")
            return self._follow({name: links[name] for name in chosen}, events)
        finally:
            beating.set()
            for link in links.values():
                link.hang_up()
            for link in links.values():
                link.close()

    def _gather(
        self, links: Mapping[str, "_Link"], events: "queue.Queue[tuple[str, Any]]"
    ) -> tuple[Sequence[str], dict[str, str]]:
        """Wait for every machine's hello.

        Returns:
            The names of the machines that take part, in order, and by name the reason why each other machine cannot.
        """
        replies = self._replies(links.values(), events, "hello", self._settings.connect_seconds)
        unfit: dict[str, str] = {}
        fit: dict[str, dict[str, Any]] = {}
        for name in links:
            hello = replies[name]
            if isinstance(hello, str):
                unfit[name] = f"{name}: {hello}"
                continue
            self.facts[name] = hello.get("facts", {})
            model = next(iter(fit.values()), hello)
            if reason := _why_unfit(hello, model, self._ranks):
                unfit[name] = f"{name}: {reason}"
            else:
                fit[name] = hello
        least = self._cluster.restart.min_nodes or len(links)
        chosen = largest_job(list(fit), wanted=len(links), least=least, divides=self._divides)
        return chosen or [], unfit

    def _rendezvous(self, chosen: Sequence["_Link"], events: "queue.Queue[tuple[str, Any]]") -> int | str:
        """Find a port on the first machine that all others can reach; returns the port, or the reason why not."""
        first, others = chosen[0], chosen[1:]
        first.send(listen=self._settings.port or 0)
        port = self._replies([first], events, "listening", REACH_SECONDS)[first.name]
        if not isinstance(port, int):
            if self._settings.port:
                return f"{first.name}: cannot listen on cluster.hosts.port={self._settings.port}; choose another port"
            return f"{first.name}: found no port for the rendezvous"
        for link in others:
            link.send(reach=[first.name, port])
        for name, reached in self._replies(others, events, "reached", 2 * REACH_SECONDS).items():
            if reached is not True:
                return (
                    f"{name} cannot reach the rendezvous at {first.name}:{port} ({reached}); allow TCP between the "
                    f"machines, and check that {name} resolves the host name {first.name}"
                )
        return port

    def _replies(
        self, links: "Sequence[_Link] | Any", events: "queue.Queue[tuple[str, Any]]", key: str, seconds: float
    ) -> dict[str, Any]:
        """Wait for the reply `key` of each machine; returns the replies by name, or a text that says why none came.

        When another machine ends meanwhile, that event is put back into `events`, for whoever waits for it next.
        """
        waiting = {link.name: link for link in links}
        found: dict[str, Any] = {}
        ended: list[tuple[str, int]] = []
        deadline = time.monotonic() + seconds
        while waiting and (left := deadline - time.monotonic()) > 0 and not self._stop.count:
            try:
                name, event = events.get(timeout=min(left, 0.5))
            except queue.Empty:
                continue
            if name in waiting and isinstance(event, int):
                found[name] = f"cannot start the agent ({waiting.pop(name).complaint or f'exit code {event}'})"
            elif name in waiting and key in event:
                found[name] = event[key]
                del waiting[name]
            elif isinstance(event, int):
                ended.append((name, event))
        for end in ended:
            events.put(end)
        return found | dict.fromkeys(waiting, f"has not answered within {seconds:g} s")

    def _follow(self, links: Mapping[str, "_Link"], events: "queue.Queue[tuple[str, Any]]") -> Attempt:
        codes: dict[str, int] = {}
        deadline, told = float("inf"), 0
        while len(codes) < len(links):
            now = time.monotonic()
            if now > deadline:
                for name in links.keys() - codes:
                    links[name].send(kill=1)
                break
            if self._stop.count > told:
                told = self._stop.count
                for link in links.values():
                    link.send(**({"stop": 1} if told == 1 else {"kill": 1}))
            try:
                name, event = events.get(timeout=0.2)
            except queue.Empty:
                continue
            if name in links and isinstance(event, int):
                codes[name] = event
                deadline = min(deadline, now + (_LOST_GRACE_SECONDS if event == _SSH_FAILED else _GRACE_SECONDS))
                if event == _SSH_FAILED:
                    self._say(f"lost {name}" + (f" ({links[name].complaint})" if links[name].complaint else ""))
        lost = [name for name, code in codes.items() if code == _SSH_FAILED]
        reason = f"lost {', '.join(lost)}" if lost else ""
        code = job_exit_code([1 if code == _SSH_FAILED else code for code in codes.values()])
        # after half of lost_seconds more, the ranks on an unreachable machine have ended themselves
        wait = self._settings.lost_seconds / 2 if lost or len(codes) < len(links) else 0.0
        return Attempt(code, reason, asked=self._stop.count > 0, wait=wait)

    def _beat(self, links: Mapping[str, "_Link"], stopped: threading.Event) -> None:
        while not stopped.wait(self._settings.lost_seconds / 6):
            for link in list(links.values()):
                link.send(beat=1)


def _why_unfit(hello: Mapping[str, Any], model: Mapping[str, Any], ranks: int) -> str:
    """Why the machine that sent `hello` cannot join a job with the machine that sent `model`; empty when it can."""
    for path in hello["unseen"]:
        return (
            f"does not see the same {path} as this machine; the run folder must be on storage that all machines share"
        )
    for package in sorted({**hello["versions"], **model["versions"]}):
        here, there = hello["versions"].get(package), model["versions"].get(package)
        if here != there:
            return f"has {package} {here} but another machine has {there}; install the same versions on every machine"
    if hello["gpus"] < ranks and (hello["gpus"] or model["gpus"]):
        return f"sees {hello['gpus']} GPUs, fewer than the {ranks} ranks that each machine runs"
    return ""


class _Link:
    """An ssh connection to one machine's agent. Puts the agent's replies and, last, ssh's exit code into `events`."""

    def __init__(self, name: str, argv: Sequence[str], events: "queue.Queue[tuple[str, Any]]") -> None:
        self.name = name
        self.complaint = ""  # the last line that ssh itself wrote to stderr
        self._events = events
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C does not kill ssh: the ranks are asked to save instead
        )  # fmt: skip
        self._errors = threading.Thread(target=self._read_errors, daemon=True)
        self._errors.start()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, **order: Any) -> None:
        """Send an order to the agent. If the agent has ended, nothing happens; its exit code is an event of its own."""
        try:
            with self._lock:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
        except (OSError, ValueError):
            pass

    def hang_up(self) -> None:
        """Close the agent's standard input; the agent then asks its ranks to save and stop."""
        try:
            with self._lock:
                assert self._process.stdin is not None
                self._process.stdin.close()
        except OSError:
            pass

    def close(self) -> None:
        """Wait two seconds for ssh to end, then kill it."""
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            if line.startswith(SEPARATOR):
                self._events.put((self.name, json.loads(line[1:])))
            else:
                print(f"[{self.name}] {line}", flush=True)
        self._errors.join(2)
        self._events.put((self.name, self._process.wait()))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for raw in self._process.stderr:
            self.complaint = " ".join(raw.decode(errors="replace").split()) or self.complaint
            print(f"[{self.name}] ssh: {self.complaint}", file=sys.stderr, flush=True)


def hosts_and_ranks(cluster: ClusterConfig) -> tuple[list[Host], int]:
    """The machines of the hostfile that take part, and the number of ranks on each.

    Raises:
        BadInput: no hostfile, too few machines in it, or no number of ranks for a machine.
    """
    if not cluster.hosts.hostfile:
        raise BadInput("kind hosts needs --hostfile FILE, a file with one line `NAME slots=N` for each machine")
    hosts = read_hostfile(cluster.hosts.hostfile)
    if cluster.nodes and cluster.nodes > len(hosts):
        raise BadInput(f"{cluster.hosts.hostfile} names {len(hosts)} machines, fewer than --nodes {cluster.nodes}")
    hosts = hosts[: cluster.nodes]
    slots = {host.name: host.slots for host in hosts if host.slots}
    if cluster.gpus is None and len(slots) < len(hosts):
        raise BadInput(
            f"{cluster.hosts.hostfile}: the number of ranks on each machine is missing; "
            "write `NAME slots=N`, or give --gpus N"
        )
    return hosts, ranks_per_node(slots, cluster.gpus) if slots else int(cluster.gpus or 0)


def launch(request: Request) -> int:
    """Train on the machines of the hostfile, and start again after a crash or a lost machine; returns the exit code.

    Raises:
        BadInput: no hostfile, too few machines in it, or a number of ranks that does not divide the run's batches.
    """
    cluster = request.cluster
    hosts, ranks = hosts_and_ranks(cluster)
    request.require_divisible(len(hosts) * ranks)
    passed = passed_variables(os.environ, cluster.pass_environment)
    if request.dry_run:
        for host in hosts:
            print(shlex.join(ssh_argv(host.name, cluster.hosts, python=request.python, workdir=request.workdir)))
        print(f"# on each of them, {ranks} ranks of: python -m {shlex.join(worker_of(request.stored_config))}")
        for name, value in cluster.environment.items():
            print(f"# with {name}={shlex.quote(value)}")
        if passed:
            print(f"# and, over standard input: {', '.join(passed)}")
        return 0
    stored = request.prepare(request.run, len(hosts) * ranks)
    with StopRequests() as stop:
        job = HostsJob(
            cluster, hosts, ranks, worker_of(stored), environment={**passed, **cluster.environment},
            files={str(stored): hashlib.sha256(stored.read_bytes()).hexdigest()}, divides=request.divides(ranks),
            workdir=request.workdir, python=request.python, stop=stop, say=say,
        )  # fmt: skip
        return supervise(job.attempt, cluster.restart, say=say, wait=stop.wait)

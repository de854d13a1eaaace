"""Supervisor and agent of kind hosts, each alone, without a connection."""

import io
import os
import queue
import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from dnachunker.cluster.backends import ssh_agent
from dnachunker.cluster.backends.ssh_hosts import HostsJob
from dnachunker.cluster.config import ClusterConfig
from dnachunker.cluster.stop_requests import StopRequests
from dnachunker.cluster.topology import Host


@pytest.fixture
def job() -> HostsJob:
    return HostsJob(
        ClusterConfig.model_validate({"kind": "hosts", "hosts": {"port": 29500}}),
        [Host("a"), Host("b")], 1, ["worker"],
        environment={}, files={}, divides=lambda nodes: True, workdir="/", python="python", stop=StopRequests(),
        say=lambda line: None,
    )  # fmt: skip


def link(name: str) -> Any:
    return SimpleNamespace(name=name, complaint="", send=lambda **order: None)


def test_a_machine_that_ends_while_another_is_asked_is_not_forgotten(job: HostsJob) -> None:
    events: queue.Queue[tuple[str, Any]] = queue.Queue()
    events.put(("b", 255))
    events.put(("a", {"listening": 29500}))
    assert job._replies([link("a")], events, "listening", 5) == {"a": 29500}
    assert job._replies([link("b")], events, "reached", 5) == {"b": "cannot start the agent (exit code 255)"}


def test_a_port_that_is_taken_is_a_reason_so_that_later_attempts_go_on(job: HostsJob) -> None:
    events: queue.Queue[tuple[str, Any]] = queue.Queue()
    events.put(("a", {"listening": None}))
    assert "cluster.hosts.port=29500" in str(job._rendezvous([link("a"), link("b")], events))


def test_the_end_of_input_does_not_ask_ranks_twice_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    served = ssh_agent._Agent(SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setattr(ssh_agent.os, "kill", lambda process, number: signals.append((process, number)))
    served._running = True
    served._listen_to_input(io.StringIO('{"stop": 1}\n'))
    assert signals == [(os.getpid(), signal.SIGTERM)]
    served = ssh_agent._Agent(SimpleNamespace())  # type: ignore[arg-type]
    served._running = True
    served._listen_to_input(io.StringIO('{"beat": 1}\n'))
    assert len(signals) == 2, "the ranks are also asked to stop when the supervisor has ended"

"""`launch --on hosts` on two machines (network namespaces). One machine dies and comes back, then loses its link."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from network_hosts import NetworkHosts

from dnachunker.pretrain.records.event_log import read_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 40
LOST_SECONDS = 15
SMALL = [
    f"steps={STEPS}", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4",
    "data.seq_len=128", "data.global_batch=4", "evaluation.windows=2", "evaluation.every=40", "checkpoint.every=5",
    "tracking.enabled=false",
]  # fmt: skip


def losses(run: Path) -> dict[int, float]:
    return {e["steps_done"]: e["loss"] for e in read_events(run) if e["event"] == "step"}


def resumes(run: Path) -> list[dict[str, Any]]:
    return [e for e in read_events(run) if e["event"] == "resume"]


def command_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):  # the process has ended, or is ending
        return " ".join(process.cmdline())
    return ""


def wait_until(met: Callable[[], object], process: "subprocess.Popen[str]", log: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_a_dead_host_and_a_cut_link_end_in_the_same_losses(
    sample_corpus: Path, tmp_path: Path, dnachunker: Callable[..., Any]
) -> None:
    quiet, run, log = tmp_path / "quiet", tmp_path / "run", tmp_path / "launch.log"
    done = dnachunker(
        "pretrain", "--config", "tiny", "--corpus", sample_corpus, "--run", quiet, "--processes", "2", *SMALL
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "hosts"
    folder.mkdir()
    with NetworkHosts(folder, 2) as hosts:
        hostfile = tmp_path / "hostfile"
        hostfile.write_text("".join(f"{address} slots=1\n" for address in hosts.addresses.values()))
        secret = "correct-horse-battery-staple"
        argv = [
            sys.executable, "-m", "dnachunker", "launch", "--config", "tiny", "--corpus", sample_corpus, "--run", run,
            "--on", "hosts", "--hostfile", hostfile, *SMALL, f"cluster.hosts.lost_seconds={LOST_SECONDS}",
            f"cluster.hosts.ssh_options=[{','.join(hosts.ssh_options)}]", "cluster.restart.backoff_seconds=1",
            "cluster.restart.min_nodes=1", "cluster.hosts.connect_seconds=40",
            "cluster.environment.OMP_NUM_THREADS='1'",
        ]  # fmt: skip
        environment = {**os.environ, "MLFLOW_TRACKING_PASSWORD": secret}
        with log.open("w") as output:
            launch = subprocess.Popen(list(map(str, argv)), stdout=output, stderr=output, env=environment, text=True)
        try:
            wait_until(lambda: len(losses(run)) >= 8, launch, log)
            processes = [p for name in hosts.names for p in hosts.ranks(name)]
            processes += [psutil.Process(launch.pid), *psutil.Process(launch.pid).children(recursive=True)]
            seen = "".join(map(command_of, processes))
            assert "pretrain" in seen
            assert "ServerAliveInterval" in seen
            assert secret not in seen
            hosts.down("h2")
            hosts.up("h2")  # it boots again at once
            wait_until(lambda: resumes(run) and max(losses(run)) >= resumes(run)[-1]["steps_done"] + 4, launch, log)
            assert resumes(run)[-1]["world_size"] == 2, log.read_text()

            began = time.monotonic()
            hosts.cut("h2")
            wait_until(lambda: "lost" in log.read_text().rpartition("ranks on")[2], launch, log)
            detected = time.monotonic() - began
            assert detected < LOST_SECONDS + 3, "ssh's keepalives notice the cut link in time"
            wait_until(lambda: not hosts.ranks("h2"), launch, log, seconds=LOST_SECONDS)
            assert launch.wait(300) == 0, log.read_text()
        finally:
            launch.kill()
    said = log.read_text()
    assert resumes(run)[-1]["world_size"] == 1, said
    assert resumes(run)[-1]["steps_done"] >= resumes(run)[0]["steps_done"]
    expected, found = losses(quiet), losses(run)
    assert found.keys() == expected.keys()
    together = resumes(run)[-1]["steps_done"]
    assert {s: found[s] for s in range(1, together + 1)} == {s: expected[s] for s in range(1, together + 1)}
    assert found == pytest.approx(expected, abs=1e-6)
    assert secret not in said
    assert secret not in (run / "config.yaml").read_text()
    assert len(re.findall("starting again", said)) == 2, said


def test_a_stop_and_the_death_of_the_supervisor_both_save(sample_corpus: Path, tmp_path: Path) -> None:
    run, log, folder = tmp_path / "run", tmp_path / "launch.log", tmp_path / "hosts"
    folder.mkdir()

    def interrupts() -> int:
        return len([e for e in read_events(run) if e["event"] == "interrupt"])

    with NetworkHosts(folder, 2) as hosts:
        hostfile = tmp_path / "hostfile"
        hostfile.write_text("".join(f"{address} slots=1\n" for address in hosts.addresses.values()))
        argv = [
            sys.executable, "-m", "dnachunker", "launch", "--config", "tiny", "--corpus", sample_corpus, "--run", run,
            "--on", "hosts", "--hostfile", hostfile, *SMALL, "steps=100000", "evaluation.every=100000",
            f"cluster.hosts.ssh_options=[{','.join(hosts.ssh_options)}]", "cluster.environment.OMP_NUM_THREADS='1'",
        ]  # fmt: skip
        for number, ending in enumerate((signal.SIGTERM, signal.SIGKILL), 1):
            with log.open("a") as output:
                launch = subprocess.Popen(list(map(str, argv)), stdout=output, stderr=output, text=True)
            try:
                done = max(losses(run), default=0)
                wait_until(lambda done=done: max(losses(run), default=0) > done + 2, launch, log)
                launch.send_signal(ending)
                assert launch.wait(120) == (3 if ending == signal.SIGTERM else -signal.SIGKILL), log.read_text()
            finally:
                launch.kill()
            deadline = time.monotonic() + 120
            while interrupts() < number or any(hosts.ranks(name) for name in hosts.names):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
    saved = [e["steps_done"] for e in read_events(run) if e["event"] == "interrupt"]
    assert [e["steps_done"] for e in resumes(run)] == saved[:1]

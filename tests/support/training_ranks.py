"""Starts real training ranks in seconds, through rank_server.py."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dnachunker.pretrain.records.event_log import read_events

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("rank_server.py")
STEPS = 12
SMALL = (
    f"steps={STEPS}", "model.width=32", "model.num_heads=2", "model.trunk_layers=1", "model.state_size=4",
    "data.seq_len=128", "evaluation.windows=2", "evaluation.every=6", "checkpoint.every=4", "tracking.enabled=false",
    "guards.hang_seconds=120",
)  # fmt: skip


class Job:
    """The running ranks of one run."""

    def __init__(self, server: "Ranks", ranks: list[int], run: Path, log: Path) -> None:
        self._server, self.ranks, self._run, self._log = server, ranks, run, log

    def signal_at(self, step: int, rank: int, number: int) -> None:
        """Send a signal to one rank once the run has logged `step`."""
        self.wait_for(step)
        os.kill(self.ranks[rank], number)

    def wait_for(self, step: int) -> None:
        """Wait until the run has logged `step`."""
        deadline = time.monotonic() + 120
        while not any(e["event"] == "step" and e["steps_done"] >= step for e in read_events(self._run)):
            assert time.monotonic() < deadline, f"the run never got to step {step}: {self.printed()}"
            assert any(Path(f"/proc/{pid}").exists() for pid in self.ranks), self.printed()
            time.sleep(0.01)

    def end(self) -> list[int]:
        """Wait for the end of all ranks; returns their exit codes."""
        return self._server.answer()

    def printed(self) -> str:
        """The output of the ranks."""
        return self._log.read_text()


class Ranks:
    """Starts the ranks of runs, through a server process.

    Args:
        corpus: that the runs train on, unless they name another.
        settings: of every run, as KEY=VALUE.
        server: the script of the server.
        variables: environment variables of the server.
    """

    def __init__(
        self, corpus: Path, settings: Sequence[str] = SMALL, server: Path = SERVER,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self._corpus, self._settings = corpus, settings
        self._process = subprocess.Popen(
            [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SERVER.parent}", **variables},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(
        self,
        run: Path,
        *overrides: str,
        world_size: int = 2,
        fault: dict[str, Any] | None = None,
        corpus: Path | None = None,
        **environment: str,
    ) -> Job:
        """Start or continue a run.

        Args:
            overrides: of the run's config, as KEY=VALUE.
            fault: the fault to inject, as rank_server.py describes it.
            corpus: default: the embedded sample.
            environment: variables of the ranks.
        """
        arguments = ["pretrain", "--config", "tiny", "--corpus", str(corpus or self._corpus), "--run", str(run)]
        return self._start([*arguments, *self._settings, *overrides], run, world_size, fault, environment)

    def export(self, run: Path, output: Path) -> Job:
        """Start the export of a run's newest checkpoint; it is compared in the same process."""
        fault = {"kind": "load_here", "rank": 0}
        return self._start(["export", str(run), str(output)], run, 1, fault, {})

    def _start(
        self, arguments: list[str], run: Path, world_size: int, fault: dict[str, Any] | None,
        environment: Mapping[str, str],
    ) -> Job:  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = run.with_suffix(".log")
        log.write_text("")
        job = {
            "arguments": arguments, "world_size": world_size, "port": port, "log": str(log),
            "fault": fault, "environment": environment,
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Job(self, self.answer(), run, log)

    def finish(self, run: Path, *overrides: str, world_size: int = 2) -> Job:
        """Start or continue a run, and check that it ends with success."""
        job = self.start(run, *overrides, world_size=world_size)
        assert job.end() == [0] * world_size, job.printed()
        return job

    def answer(self) -> list[int]:
        assert self._process.stdout is not None
        return list(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the server."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

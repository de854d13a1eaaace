"""The agent that runs on each machine of kind hosts: `python -m dnachunker.cluster.backends.ssh_agent`.

The supervisor (ssh_hosts.py) sends orders to the agent's standard input, one JSON object a line. So no path and no
secret of a job appears in a command line. The dialogue, with `>` for orders and `<` for replies:

    > {"job": {"environment": …, "lost_seconds": …, "files": {path: sha256}, "facts": null}}
    < {"hello": {"versions": …, "gpus": …, "unseen": […]}}   with "facts" when the doctor asks
    > {"listen": PORT}        to the first machine, which then holds the port of the rendezvous
    < {"listening": PORT}
    > {"reach": [HOST, PORT]} to the other machines
    < {"reached": true}       or {"reached": "why not"}
    > {"go": {"worker": …, "placement": …}}
    > {"beat": 1}             every few seconds, from the start

A reply starts with a record separator; every other line of the agent's output was printed by a rank.

An agent that receives nothing for `lost_seconds` ends its ranks at once, because the supervisor counts this machine as
lost and starts the job again without it. On {"stop": 1}, or when the input ends, the agent asks its ranks to save and
stop. On {"kill": 1} it kills them.
"""

import hashlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import psutil

from dnachunker.cluster.topology import Placement

from .local import run_node, visible_gpus
from .node_facts import gather
from .versions import versions

SEPARATOR = "\x1e"
REACH_SECONDS = 10.0


def main() -> int:
    """Serve one job; returns the exit code of this machine's ranks."""
    speak = _relay_output()
    agent = _Agent(speak)
    try:
        return agent.serve()
    finally:
        speak.close()


class _Agent:
    def __init__(self, speak: "_Speaker") -> None:
        self._speak = speak
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._heard = time.monotonic()
        self._lost_seconds = float("inf")
        self._running = self._stop_asked = False
        self._listener: socket.socket | None = None
        threading.Thread(target=self._listen_to_input, args=(sys.stdin,), daemon=True).start()
        threading.Thread(target=self._watch_lease, daemon=True).start()

    def serve(self) -> int:
        while True:
            order = self._orders.get()
            if "job" in order:
                job = order["job"]
                os.environ.update(job["environment"])
                self._lost_seconds = float(job["lost_seconds"])
                self._speak.reply(hello=_hello(job["files"], job["facts"]))
            elif "listen" in order:
                self._speak.reply(**self._hold_port(int(order["listen"])))
            elif "reach" in order:
                self._speak.reply(reached=_reach(*order["reach"]))
            elif "go" in order:
                if self._listener:
                    self._listener.close()  # rank 0 takes the port over
                placement = Placement(**order["go"]["placement"])
                self._running = True
                return run_node(order["go"]["worker"], placement)
            else:  # a stop or the end of input, before any rank ran
                return 0

    def _hold_port(self, port: int) -> dict[str, Any]:
        try:
            self._listener = socket.create_server(("", port), backlog=4096)
        except OSError as error:
            return {"listening": None, "reason": str(error.strerror)}
        return {"listening": self._listener.getsockname()[1]}

    def _listen_to_input(self, source: TextIO) -> None:
        for line in source:
            self._heard = time.monotonic()
            order = json.loads(line)
            if "kill" in order:
                _end_everything()
            elif "stop" in order and self._running:
                self._ask_to_stop()
            elif "beat" not in order:
                self._orders.put(order)
        # the supervisor has ended; the ranks have `lost_seconds` from now to save and stop
        self._heard = time.monotonic()
        if self._running:
            self._ask_to_stop()
        else:
            self._orders.put({})

    def _ask_to_stop(self) -> None:
        if not self._stop_asked:  # a second signal would end ranks that are still saving
            self._stop_asked = True
            os.kill(os.getpid(), signal.SIGTERM)  # `run_node` passes it on to the ranks

    def _watch_lease(self) -> None:
        while time.monotonic() - self._heard < self._lost_seconds:
            time.sleep(0.2)
        _end_children()
        reason = f"{socket.gethostname()}: not heard from the supervisor for {self._lost_seconds:g} s; ending the ranks"
        # in a thread, because print may block for ever when nobody reads the output
        told = threading.Thread(target=print, args=(f"dnachunker: {reason}",), kwargs={"flush": True}, daemon=True)
        told.start()
        told.join(1)
        _end_everything()


class _Speaker:
    """Writes replies to the supervisor and the lines that the ranks print to one output, which may have been closed."""

    def __init__(self, output: int, printed: int) -> None:
        self._output, self._lock = output, threading.Lock()
        self._relay = threading.Thread(target=self._copy, args=(printed,), daemon=True)
        self._relay.start()

    def reply(self, **answer: Any) -> None:
        self._write(f"{SEPARATOR}{json.dumps(answer)}\n".encode())

    def close(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor in (1, 2):
            os.close(descriptor)  # closes the pipe, because the ranks have ended; `_copy` then reads its end
        self._relay.join(5)

    def _copy(self, printed: int) -> None:
        with os.fdopen(printed, "rb") as lines:
            for line in lines:
                self._write(line)

    def _write(self, line: bytes) -> None:
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._output, line) :]
        except OSError:
            pass  # the supervisor has ended; ranks that are saving must not fail because of that


def _relay_output() -> _Speaker:
    """Redirect stdout and stderr of this process and its ranks into a pipe, which the speaker copies to the output."""
    output = os.dup(1)
    os.set_inheritable(output, False)
    read, write = os.pipe()
    os.dup2(write, 1)
    os.dup2(write, 2)
    os.close(write)
    return _Speaker(output, read)


def _hello(files: dict[str, str], facts: dict[str, Any] | None) -> dict[str, Any]:
    unseen = [path for path, digest in files.items() if _digest(path) != digest]
    hello: dict[str, Any] = {"versions": versions(), "gpus": len(visible_gpus()), "unseen": unseen}
    return hello | ({"facts": gather(**facts)} if facts and not unseen else {})


def _digest(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def _reach(host: str, port: int) -> bool | str:
    try:
        socket.create_connection((host, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return True


def _end_everything() -> None:
    """Kill all processes that this process started, and this process."""
    _end_children()
    psutil.Process().kill()


def _end_children() -> None:
    for process in psutil.Process().children(recursive=True):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    sys.exit(main())

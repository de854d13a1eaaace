"""Stop a sweep on request: the running steps save and end, on this machine or on others of a Ray cluster."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from dnachunker.cluster.stop_requests import StopRequests, heeded

STOPPED = "stopped; run the same command to continue"
_POLL_SECONDS = 0.5


@dataclass
class Running:
    """The processes of the running steps, and the request to stop them."""

    stopped: bool = False
    processes: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    _asked: set["subprocess.Popen[bytes]"] = field(default_factory=set)

    def stop(self, again: bool = False) -> None:
        """Ask each process once to save and end, and let no other start; `again` tells all to end without saving."""
        self.stopped = True
        for process in set(self.processes) if again else self.processes - self._asked:
            self._asked.add(process)
            process.send_signal(signal.SIGTERM)  # does nothing to a process that has ended


@contextlib.contextmanager
def on_signals(stop: Callable[[bool], None]) -> Iterator[None]:
    """Inside the block, the first signal calls `stop(False)`; each signal some seconds later calls `stop(True)`."""
    requests = StopRequests()

    def heed(_number: int, _frame: FrameType | None) -> None:
        before = requests.count
        requests.note()
        if requests.count > before:
            stop(before > 0)

    previous: dict[int, Callable[..., object] | int | None] = {n: signal.signal(n, heed) for n in heeded()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Inside the block, a signal raises KeyboardInterrupt in the main thread; so does each signal some seconds later.

    Ray's calls wait in C++; no other exception of a signal handler gets out of them.
    """

    def interrupt(_again: bool) -> None:
        raise KeyboardInterrupt

    with on_signals(interrupt):
        yield


@contextlib.contextmanager
def on_file(path: Path, running: Running) -> Iterator[None]:
    """Inside the block, stop `running` once the file `path` exists; another machine creates it to ask for that."""
    left = threading.Event()

    def watch() -> None:
        while not path.exists():
            if left.wait(_POLL_SECONDS):
                return
        running.stop()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:  # such as the end of this Ray worker, which must not leave its step running
        running.stop()
        raise
    finally:
        left.set()
        watcher.join()

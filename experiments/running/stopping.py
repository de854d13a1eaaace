"""A sweep that is asked to stop: running commands save and end, on this machine or wherever Ray runs them."""

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
    """The commands that run now, so that a request to stop can reach them."""

    stopped: bool = False
    processes: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    _asked: set["subprocess.Popen[bytes]"] = field(default_factory=set)

    def stop(self, again: bool = False) -> None:
        """Ask all of them to save and end, each once, and start no others; `again` tells them to end without saving."""
        self.stopped = True
        for process in set(self.processes) if again else self.processes - self._asked:
            self._asked.add(process)
            process.send_signal(signal.SIGTERM)  # does nothing to one that has ended


@contextlib.contextmanager
def on_signals(stop: Callable[[bool], None]) -> Iterator[None]:
    """While entered, a signal calls `stop(False)`, and one that comes more than seconds later `stop(True)`."""
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
    """While entered, a signal raises KeyboardInterrupt in the main thread, and so does one seconds later.

    Ray's calls wait in C++ and let no other exception of a handler out.
    """

    def interrupt(_again: bool) -> None:
        raise KeyboardInterrupt

    with on_signals(interrupt):
        yield


@contextlib.contextmanager
def on_file(path: Path, running: Running) -> Iterator[None]:
    """While entered, stop `running` once `path` is there: how another machine asks for it."""
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
    except BaseException:  # such as the end of this Ray worker: nobody else would stop its command
        running.stop()
        raise
    finally:
        left.set()
        watcher.join()

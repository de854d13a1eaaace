"""Worker processes on this machine without Ray: ready in a fraction of a second, replaced when one dies."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from dataprep.shard_task import attempt
from failures import Failure

_DEATHS_IN_A_ROW = 3  # a piece that kills every worker which takes it is not tried for ever
_shared: tuple[str, Any] = ("", None)  # in a worker: what it unpickled last


class ProcessPool:
    """`workers` processes, gone when the context ends, and also when this process is killed."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor = self._start()

    def __enter__(self) -> "ProcessPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for process in list((self._executor._processes or {}).values()):
                process.kill()  # no waiting for pieces nobody wants
        self._executor.shutdown(wait=True, cancel_futures=True)

    def map(self, task: Callable[..., Any], jobs: Sequence[Any], shared: Any) -> Iterator[tuple[int, Any]]:
        """Call `task(job, shared)` for every job; yields (job number, result) as they finish."""
        with tempfile.TemporaryDirectory(prefix="dnachunker-") as folder:
            # through a file, once, since every worker needs it and jobs are many
            path = Path(folder) / "shared.pickle"
            path.write_bytes(pickle.dumps(shared, pickle.HIGHEST_PROTOCOL))
            yield from self._map(task, jobs, str(path))

    def _map(self, task: Callable[..., Any], jobs: Sequence[Any], shared: str) -> Iterator[tuple[int, Any]]:
        waiting = list(reversed(range(len(jobs))))
        running: dict[Future[Any], int] = {}
        deaths = 0
        while waiting or running:
            try:
                while waiting and len(running) < 2 * self.workers:
                    running[self._executor.submit(_run, task, jobs[waiting[-1]], shared)] = waiting[-1]
                    waiting.pop()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    deaths = 0
                    yield running.pop(future), outcome.unwrap()
            except BrokenProcessPool as error:
                deaths += 1
                if deaths > _DEATHS_IN_A_ROW:
                    raise Failure(
                        "worker processes keep dying (out of memory?); finished shards are kept: run this again with "
                        "fewer --workers"
                    ) from error
                # one death takes the whole executor with it; the tasks are safe to repeat
                waiting += sorted(running.values(), reverse=True)
                running.clear()
                self._executor.shutdown(wait=True)
                self._executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # spawned, not forked: this process may have threads, and a fork would copy their locks
        return ProcessPoolExecutor(
            self.workers, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_with_parent
        )


def _leave_with_parent() -> None:
    """In a worker: end when the parent is gone, even if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent.sentinel,), daemon=True).start()


def _wait_for(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _run(task: Callable[..., Any], job: Any, shared: str) -> Any:
    global _shared
    if _shared[0] != shared:
        _shared = (shared, pickle.loads(Path(shared).read_bytes()))
    return attempt(task, job, _shared[1])

"""Ends a job that hangs, and says which rank hangs in which call. Uses no collectives, since they hang too.

Every rank has a thread that writes the rank's current call into a small file of the run folder. A call is what a rank
does inside a step: draw, forward, backward, step, evaluate, save. A rank that is in one call for too long reads the
files of all ranks. It blames a silent rank (stopped, swapped out, its machine gone) or, if all ranks are alive, the
rank that is behind the others, which wait for it. Before the job ends, every rank that still can writes the Python
stacks of its threads into RUN/stacks.
"""

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from dnachunker.foundations.atomic_files import write_json

_FOLDER = ".ranks"
_ENDING = "ending"  # the file by which the first rank to give up tells the others
STACKS = "stacks"
HUNG = 1  # exit code: a restart continues from the last checkpoint


class Watchdog:
    """Notes this rank's call, and watches the calls of all ranks from a thread.

    Args:
        limit: seconds one call of one step may take.
        supervisor: process id of the command that asked for the ranks; 0 when there is none on this machine.
        orphaned: called when the supervisor or the process that started this rank is gone.
        leave: ends this process with an exit code.
    """

    def __init__(
        self,
        run: Path,
        rank: int,
        world_size: int,
        *,
        limit: float,
        supervisor: int = 0,
        orphaned: Callable[[str], None],
        leave: Callable[[int], Any],
    ) -> None:
        self._folder, self._stacks = run / _FOLDER, run / STACKS
        self._rank, self._world_size, self._limit = rank, world_size, limit
        self._orphaned, self._leave = orphaned, leave
        self._parent, self._supervisor = os.getppid(), supervisor
        self._beat = min(5.0, limit / 8)
        self._place: tuple[int, str, int, float] = (0, "start", 0, time.monotonic())  # calls so far, call, step, since
        self._closed = threading.Event()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file(rank).unlink(missing_ok=True)
        (self._folder / _ENDING).unlink(missing_ok=True)  # by ranks that a watchdog has ended
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def enter(self, call: str, step: int) -> None:
        """Note the call that this rank begins."""
        self._place = (self._place[0] + 1, call, step, time.monotonic())

    @property
    def place(self) -> tuple[str, int]:
        """This rank's call and step."""
        return self._place[1:3]

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()
        self._file(self._rank).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # files of other ranks are there still
            self._folder.rmdir()

    def _watch(self) -> None:
        while not self._closed.wait(self._beat):
            number, call, step, since = self._place
            stuck = time.monotonic() - since
            with contextlib.suppress(OSError):  # the save and the event log report a full disk
                self._report({"number": number, "call": call, "step": step, "stuck": round(stuck, 1)})
            if os.getppid() != self._parent or (self._supervisor and not _lives(self._supervisor)):
                self._orphaned("the process that started the ranks is gone")
            if stuck > self._limit or (self._folder / _ENDING).exists():
                self._end_job()

    def _end_job(self) -> None:
        with contextlib.suppress(OSError):
            (self._folder / _ENDING).touch()
        self._write_stacks()
        time.sleep(
            2 * self._beat
        )  # the other ranks see the file, and write theirs; the launcher ends all when one leaves
        speaker, line = blame(self._reports(), self._world_size, quiet_after=4 * self._beat)
        if speaker in (self._rank, None):
            where = f"the Python stacks of each rank that answered are in {self._stacks}/rank-*.txt"
            print(f"dnachunker: watchdog: {line}; {where}; ending the job", file=sys.stderr, flush=True)
        else:
            time.sleep(2 * self._beat)  # let the speaker print its line first
        self._leave(HUNG)

    def _write_stacks(self) -> None:
        """Write the stacks of this rank's threads, the most recent call first, over those of an earlier hang."""
        _, call, step, since = self._place
        with contextlib.suppress(OSError):
            self._stacks.mkdir(exist_ok=True)
            with (self._stacks / f"rank-{self._rank}.txt").open("w") as file:
                file.write(f"rank {self._rank}: {time.monotonic() - since:.0f} s in {call} of step {step}\n\n")
                file.flush()
                faulthandler.dump_traceback(file)

    def _report(self, place: dict[str, Any]) -> None:
        write_json(self._file(self._rank), place)

    def _reports(self) -> dict[int, dict[str, Any]]:
        """Every rank's last report and its age in seconds, by the clock of the shared file system."""
        found = {}
        for rank in range(self._world_size):
            try:
                path = self._file(rank)
                found[rank] = {**json.loads(path.read_text()), "written": path.stat().st_mtime}
            except (OSError, ValueError):
                continue
        newest = max((report["written"] for report in found.values()), default=0.0)
        return {rank: {**report, "age": newest - report["written"]} for rank, report in found.items()}

    def _file(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.json"


def _lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE  # a zombie is dead already
    except psutil.NoSuchProcess:
        return False


def blame(reports: dict[int, dict[str, Any]], world_size: int, *, quiet_after: float) -> tuple[int | None, str]:
    """Which rank hangs, from every rank's last report.

    Args:
        reports: by rank: `number` of calls so far, `call`, `step`, `stuck` (seconds in the call) and `age` (seconds
            since the report was written).
        quiet_after: age from which a rank counts as silent.

    Returns:
        The rank that should print the line (the first that is alive; None if no rank is), and the line.
    """
    alive = [rank for rank, report in reports.items() if report["age"] <= quiet_after]
    speaker = min(alive, default=None)
    for rank in range(world_size):
        if rank not in reports:
            return speaker, f"rank {rank} has never reported"
        if rank not in alive:
            report = reports[rank]
            where = f"it was last seen in {report['call']} of step {report['step']}"
            return speaker, f"rank {rank} has been silent for {report['age']:.0f} s; {where}"
    behind = min(reports, key=lambda rank: (reports[rank]["number"], rank))
    report = reports[behind]
    line = f"rank {behind} has been in {report['call']} of step {report['step']} for {report['stuck']:.0f} s"
    if all(other["number"] == report["number"] for other in reports.values()) and world_size > 1:
        line = line.replace(f"rank {behind} has", "all ranks have", 1)
    return speaker, line

"""TensorBoard files: a background thread copies the event log to RUN/tensorboard, so that training never waits.

A file that says how far the copy has got is written after the points are on disk. So a kill between the two lets the
next process copy some points again, and steps that a resume took back stand in older files. For both, TensorBoard has a
mark at the beginning of a file, `purge_step`: its readers forget the points of earlier files from that step on.
"""

import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from dnachunker.foundations.atomic_files import write_json

from .event_log import EVENTS, LogFollower
from .mlflow_content import metrics_of

FOLDER = "tensorboard"
_POSITION = "position.json"
_PAUSE_SECONDS = 1.0  # between two looks at the log: copying several steps together costs less
_AT_ONCE = 200  # events between two notes of how far the copy has got


class TensorBoardFiles(LogFollower):
    """Copies numbers of events under the names they have in MLflow; a full disk costs a line, never training."""

    def __init__(self, run: Path, announce: Callable[[str], None], *, fresh: bool) -> None:
        """
        Args:
            run: the run folder.
            announce: called with a line for the user if the files cannot be written.
            fresh: training starts from nothing: copy nothing that the log holds already.
        """
        self._run, self._announce = run, announce
        position = run / FOLDER / _POSITION
        known = json.loads(position.read_text())["offset"] if position.exists() else 0
        self._offset = (run / EVENTS).stat().st_size if fresh else int(known)  # of the log, what is copied
        self._step = -1  # of the newest point
        self._writer: Any = None
        super().__init__("tensorboard-files")

    def close(self, timeout: float = 60.0) -> None:
        """Copy what is left, for at most `timeout` seconds."""
        self._end(timeout)

    def _work(self) -> None:
        try:
            closing = False
            while not closing:
                self._news.wait()
                self._news.clear()  # before the look at the log, so that no later call is lost
                closing = self._closing.is_set()
                while self._copy_some():
                    pass
                self._closing.wait(_PAUSE_SECONDS)
            if self._writer is not None:
                self._writer.close()
        except Exception as error:  # a record must never stop training
            self._announce(f"tracking: TensorBoard files end here ({error}); the next start copies the rest")

    def _copy_some(self) -> bool:
        """Copies the next events, and notes how far that is; whether there were any."""
        begin = self._offset
        again = None  # where a next process begins: at the first event of the newest step, since it purges that step
        with (self._run / EVENTS).open("rb") as log:
            log.seek(begin)
            for line in islice(log, _AT_ONCE):
                if not line.endswith(b"\n"):
                    break  # still being written
                try:
                    event = json.loads(line)
                except ValueError:
                    event = {"event": "cut short by a crash"}
                if event.get("steps_done", self._step) != self._step:
                    again = self._offset
                self._copy(event)
                self._offset += len(line)
        if again is not None and self._writer is not None:
            self._writer.flush()
            write_json(self._run / FOLDER / _POSITION, {"offset": again})
        return self._offset > begin

    def _copy(self, event: dict[str, Any]) -> None:
        kind, step = event["event"], event.get("steps_done", 0)
        if kind in ("start", "resume"):
            self._begin_file(purge_step=step + 1 if kind == "resume" else 0)
        elif points := metrics_of(event):
            if self._writer is None:
                self._begin_file(purge_step=step)
            self._add(points, step, event["time"])
        else:
            return
        self._step = step

    def _add(self, metrics: list[tuple[str, float]], step: int, when: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics]
        # all at once: an `add_scalar` for each takes longer, and Python's lock with it
        self._writer.file_writer.add_summary(Summary(value=values), step, walltime=when)

    def _begin_file(self, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is not None:
            self._writer.close()
        folder = self._run / FOLDER
        # readers take files in the order of their names: by the second, then by host and process
        while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.1)
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

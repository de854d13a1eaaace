"""The process that probes checkpoints beside training: it is started, watched and ended here, and never waited for.

The process is `dnachunker probe RUN --follow`. It reads complete checkpoints and writes a file for each, so nothing
that happens to it can change or stop training.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psutil

from dnachunker.foundations.atomic_files import PARTIAL
from dnachunker.pretrain.run_folder import PROBES

FOLLOWED = "DNACHUNKER_FOLLOWED"  # environment variable: the training process, with which the probes end
_LOG = "log.txt"
_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOOK_SECONDS = 1.0
_END_SECONDS = 10.0
_LOWEST_PRIORITY = 19


class Probing:
    """Starts the process, and tells what it has found."""

    def __init__(self, run: Path, told: Collection[int], first_step: int) -> None:
        """
        Args:
            run: folder of a run whose config names probes.
            told: steps whose results the event log has already.
            first_step: that training goes on from; later results are of weights that the run has left.
        """
        self._folder = run / PROBES
        self._told = set(told)
        self._looked = 0.0
        self._folder.mkdir(exist_ok=True)
        for left in self._folder.glob(f"{PARTIAL}*"):  # of a killed process
            shutil.rmtree(left, ignore_errors=True)
        for path, step in self._results():
            if step > first_step:
                path.unlink()
        # on the CPU: the memory of the GPUs is planned for training
        environment = {key: value for key, value in os.environ.items() if key not in _OF_A_RANK}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", FOLLOWED: str(os.getpid())}
        with (self._folder / _LOG).open("ab") as log:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-m", "dnachunker", "probe", str(run), "--follow"], env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        with contextlib.suppress(psutil.Error):
            psutil.Process(self._process.pid).nice(_LOWEST_PRIORITY)

    @property
    def runs(self) -> bool:
        """Whether the process had not ended when `news` last looked."""
        return self._process is not None

    def news(self) -> Iterator[tuple[dict[str, Any] | None, str]]:
        """What was not told yet, at most once a second: values of an event `probes`, and a line for people.

        The end of a process that failed is a line alone.
        """
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        code = self._process.poll() if self._process else None  # before the look: what it wrote before its end is seen
        for path, step in self._results():
            if step not in self._told:
                self._told.add(step)
                found = json.loads(path.read_text("utf-8"))
                yield found, probes_line(found)
        if code is not None:
            self._process = None
            if code:
                line = f"probes: their process ended with code {code}, see {self._folder / _LOG}; training goes on"
                yield None, f"{line}, and a resume starts it again"

    def _results(self) -> list[tuple[Path, int]]:
        return [(path, int(path.stem.removeprefix("step-"))) for path in sorted(self._folder.glob("step-*.json"))]

    def end(self) -> None:
        """End the process, if it still runs."""
        if self._process:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)


def probes_line(found: dict[str, Any]) -> str:
    """One line for people about the probes of a checkpoint."""
    scores = [f"{name} {key} {value:.4g}" for name, values in found["probes"].items() for key, value in values.items()]
    failed = [f"{name} failed ({reason})" for name, reason in found["failed"].items()]
    return f"probes of step {found['steps_done']}: {', '.join([*scores, *failed])}"

"""Writes what a run says about itself to each kind of record: event log, live line, MLflow mirror, TensorBoard files.

Only rank 0 keeps records; on the other ranks every call does nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnachunker.dataprep.corpus.markov import ORDERS
from dnachunker.pretrain.config import TrackingSettings
from dnachunker.pretrain.data.headline import headline_of
from dnachunker.pretrain.engine.ranks import Rank

from .event_log import EventLog
from .live_line import LiveLine
from .mlflow_mirror import MlflowMirror
from .tensorboard_files import TensorBoardFiles


class Journal:
    """Writes an event to every record it belongs to."""

    def __init__(
        self,
        run: Path,
        tracking: TrackingSettings,
        parameters: Mapping[str, Any],
        rank: Rank,
        *,
        steps: int,
        steps_done: int,
    ) -> None:
        """
        Args:
            parameters: as in `MlflowMirror`.
            steps: of the whole run.
            steps_done: of them, those before this process.
        """
        self._active = rank.is_main
        self._copies: list[MlflowMirror | TensorBoardFiles] = []  # of the event log
        if self._active:
            self._log = EventLog(run)
            self._live_line = LiveLine(steps, steps_done)
            if tracking.enabled:
                mirror = MlflowMirror(run, tracking, parameters, self._live_line.say, fresh=not steps_done)
                self._copies.append(mirror)
            if tracking.tensorboard:
                self._copies.append(TensorBoardFiles(run, self._live_line.say, fresh=not steps_done))

    def write(self, event: str, *, say: str | None = None, **values: Any) -> None:
        """Record an event; `say` also prints a line."""
        if self._active:
            record = self._log.write(event, **values)
            if event == "step":
                self._live_line.step(record)
            for copy in self._copies:
                copy.wake()
        self.say(say)

    def say(self, line: str | None) -> None:
        """Print a line for the user."""
        if self._active and line:
            self._live_line.say(line)

    def close(self) -> None:
        """Flush everything; waits for each copy of the event log for a bounded time."""
        if self._active:
            self._live_line.close()
            for copy in self._copies:
                copy.close()
            self._log.close()


def evaluation_line(result: dict[str, Any]) -> str:
    """One line for people: the headline loss beside its baselines."""
    baselines = ", ".join(f"order {order} {result[f'order{order}_loss']:.4f}" for order in ORDERS)
    stages = "/".join(f"{value:.2f}" for value in result["compression"].values())
    key, title = headline_of(result)
    return f"held out: {title} loss {result[f'{key}_loss']:.4f} ({baselines}), unmasked compression {stages}"

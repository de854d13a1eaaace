"""Everything a run says about itself, in one place: event log, MLflow mirror and progress line.

Only rank 0 keeps a journal; on the other ranks every call does nothing.
"""

from pathlib import Path
from typing import Any

from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.data.headline import headline_of
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.evaluation.markov import ORDERS

from .event_log import EventLog
from .live_line import Progress
from .mlflow_mirror import MlflowMirror


class Journal:
    """Writes an event to all places it belongs."""

    def __init__(self, run: Path, config: PretrainConfig, rank: Rank, *, steps_done: int) -> None:
        self._active = rank.is_main
        self._mirror: MlflowMirror | None = None
        if self._active:
            self._log = EventLog(run)
            self._progress = Progress(config.steps, steps_done)
            if config.tracking.enabled:
                self._mirror = MlflowMirror(run, config, self._progress.say, fresh=not steps_done)

    def write(self, event: str, *, say: str | None = None, **values: Any) -> None:
        """Record an event; `say` also prints a line."""
        if self._active:
            record = self._log.write(event, **values)
            if event == "step":
                self._progress.step(record)
            if self._mirror is not None:
                self._mirror.wake()
        self.say(say)

    def say(self, line: str | None) -> None:
        """Print a line for the user."""
        if self._active and line:
            self._progress.say(line)

    def close(self) -> None:
        """Flush everything; waits a bounded time for MLflow."""
        if self._active:
            self._progress.close()
            if self._mirror is not None:
                self._mirror.close()
            self._log.close()


def evaluation_line(result: dict[str, Any]) -> str:
    """One line for people: the headline loss beside its baselines."""
    baselines = ", ".join(f"order {order} {result[f'order{order}_loss']:.4f}" for order in ORDERS)
    stages = "/".join(f"{value:.2f}" for value in result["compression"].values())
    key, title = headline_of(result)
    return f"held out: {title} loss {result[f'{key}_loss']:.4f} ({baselines}), unmasked compression {stages}"

"""Judges the losses of a run: values that are not finite, and spikes."""

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

from dnachunker.pretrain.config import GuardSettings

_FEWEST = 8  # losses a score needs to stand on
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Verdict:
    """What a guard has to say about a step."""

    kind: str  # "nonfinite" or "spike"
    detail: str
    stop: str = ""  # why training must end, if it must


class RollBack(Exception):
    """A spike is to be undone: go back to the last checkpoint and leave this batch out."""


class LossGuards:
    """Judges each step by values that are the same on every rank, so that all ranks come to the same verdict.

    Its state is part of a checkpoint: a resumed run judges as an uninterrupted one would.
    """

    def __init__(self, settings: GuardSettings, state: dict[str, Any] | None = None) -> None:
        state = state or {}
        self._settings = settings
        self._in_a_row = int(state.get("nonfinite_in_a_row", 0))
        self._losses: deque[float] = deque(state.get("losses", []), maxlen=settings.spike_window)

    def judge(self, loss: float, grad_norm: float, *, applied: bool, step: int) -> Verdict | None:
        """A verdict when something is wrong with `step`; None when all is well.

        Args:
            loss: summed over all ranks.
            grad_norm: over all ranks, before clipping.
            applied: whether the optimizer made the update.

        Returns:
            With `stop`: NaN or infinity in `nonfinite_limit` steps in a row, or an update made in spite of one.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm) and applied:
            self._in_a_row = 0
            return self._judge_height(loss)
        self._in_a_row += 1
        found = f"loss {loss}, gradient norm {grad_norm}"
        stop = ""
        if applied:
            stop = (
                f"step {step}: {found}, and the update was made; nothing is saved since the last checkpoint. Run the "
                f"same command again to continue from it, with a lower optimizer.lr if this repeats"
            )
        elif self._in_a_row >= self._settings.nonfinite_limit:
            stop = (
                f"step {step}: {found}; {self._in_a_row} steps in a row were not finite (guards.nonfinite_limit) and "
                f"no rank applied them. Look at their windows in dumps/, lower optimizer.lr, run the command again"
            )
        return Verdict("nonfinite", f"{found}; no rank applied the step ({self._in_a_row} in a row)", stop)

    def state(self) -> dict[str, Any]:
        """What `__init__` takes back."""
        return {"nonfinite_in_a_row": self._in_a_row, "losses": list(self._losses)}

    def _judge_height(self, loss: float) -> Verdict | None:
        verdict = None
        if len(self._losses) >= _FEWEST:
            median = statistics.median(self._losses)
            spread = _MAD_TO_SIGMA * statistics.median(abs(value - median) for value in self._losses)
            # losses that hardly vary must not make a tremor a spike
            score = (loss - median) / max(spread, 0.01 * abs(median), 1e-12)
            if score >= self._settings.spike_score:
                verdict = Verdict("spike", f"loss {loss:.4f} is {score:.1f} deviations above the median {median:.4f}")
        if verdict is None:  # a spike must not raise the level it is measured against
            self._losses.append(loss)
        return verdict

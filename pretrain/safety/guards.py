"""Guards: find losses and gradients that are not finite, and loss spikes."""

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

from dnachunker.pretrain.config import GuardSettings

_FEWEST = 8  # losses that a score needs at least
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Verdict:
    """What a guard found at a step."""

    kind: str  # "nonfinite" or "spike"
    detail: str
    stop: str = ""  # why training must end, if it must


class RollBack(Exception):
    """Asks to undo a spike: go back to the last checkpoint and leave the spike's batch out."""


class LossGuards:
    """Judges each step by values that are the same on every rank, so that all ranks come to the same verdict.

    The state is part of a checkpoint: a resumed run judges like an uninterrupted one.
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
            With `stop` set after `nonfinite_limit` steps in a row with NaN or infinity, or if one of them was applied.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm) and applied:
            self._in_a_row = 0
            return self._judge_height(loss)
        self._in_a_row += 1
        found = f"loss {loss}, gradient norm {grad_norm}"
        stop = ""
        if applied:
            stop = (
                f"step {step}: {found}, and the update was made but not saved. Run the same command again to continue "
                f"from the last checkpoint; if this repeats, start a new run with a lower optimizer.lr"
            )
        elif self._in_a_row >= self._settings.nonfinite_limit:
            stop = (
                f"step {step}: {found}; {self._in_a_row} steps in a row were not finite (guards.nonfinite_limit) and "
                f"no rank applied them. Look at their windows in dumps/, or start a new run with a lower optimizer.lr"
            )
        outcome = "the update was made" if applied else "no rank applied the step"
        return Verdict("nonfinite", f"{found}; {outcome} ({self._in_a_row} in a row)", stop)

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores, and `__init__` takes as `state`."""
        return {"nonfinite_in_a_row": self._in_a_row, "losses": list(self._losses)}

    def _judge_height(self, loss: float) -> Verdict | None:
        verdict = None
        if len(self._losses) >= _FEWEST:
            median = statistics.median(self._losses)
            spread = _MAD_TO_SIGMA * statistics.median(abs(value - median) for value in self._losses)
            # if the losses hardly vary, a small rise must not count as a spike
            score = (loss - median) / max(spread, 0.01 * abs(median), 1e-12)
            if score >= self._settings.spike_score:
                verdict = Verdict("spike", f"loss {loss:.4f} is {score:.1f} deviations above the median {median:.4f}")
        if verdict is None:  # a spike must not raise the level it is measured against
            self._losses.append(loss)
        return verdict

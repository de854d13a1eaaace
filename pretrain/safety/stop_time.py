"""How long a stop takes: from a signal until the run is saved, beside the notice that the launcher gives."""

import os
from collections.abc import Mapping

# Set by a launcher: seconds from the signal until it kills the ranks (see cluster/backends/slurm.py).
NOTICE_VARIABLE = "DNACHUNKER_NOTICE_SECONDS"


def most_seconds(*, step: float, evaluation: float, save: float) -> float:
    """Seconds of the longest stop. A signal can arrive just after the ranks have agreed not to stop at a step.

    Then that step's evaluation and save come first, and the next step and its own save follow.
    """
    return evaluation + save + step + save


class StopTime:
    """Keeps the seconds of the latest step, evaluation and save, and warns once if a stop may be too slow."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._latest = {"step": 0.0, "evaluation": 0.0, "save": 0.0}
        notice = environment.get(NOTICE_VARIABLE)
        self._notice = float(notice) if notice else None
        self._warned = False

    def measure(self, what: str, seconds: float) -> None:
        """Note how long a `step`, an `evaluation` or a `save` took."""
        self._latest[what] = seconds

    @property
    def most(self) -> float:
        """Seconds that a stop takes at most, if the next step, evaluation and save are like the latest."""
        return most_seconds(**self._latest)

    def warning(self) -> str:
        """A line for the user, the first time that a stop may take longer than the launcher's notice; else empty."""
        if self._notice is None or self._warned or self.most <= self._notice:
            return ""
        self._warned = True
        parts = ", ".join(f"{what} {seconds:.1f}" for what, seconds in self._latest.items())
        return (
            f"warning: slow_stop: a stop may take {self.most:.0f} s ({parts}, and a second save), and the launcher "
            f"kills the ranks {self._notice:g} s after its signal; the steps since the last checkpoint would be lost. "
            "Give more notice (cluster.slurm.signal_seconds), or make evaluations shorter (evaluation.windows)"
        )

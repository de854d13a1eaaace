"""Supervised restarts: decides after each attempt of a job whether to start it again, and after which pause.

- Exit codes 0 (done), 2 (bad input) and 4 (a guard) are final: after 2 and 4 another start would fail in the same way.
- After every other code the job is started again and continues from the newest checkpoint. Code 3 (saved) costs
  nothing; any other code (a crash, a killed rank, a lost machine) counts as a crash.
- A crash counts for `window_hours`. So a run that crashes once a week is always restarted, and a run that cannot start
  is given up soon.
- A stop that the user asked for is final.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .config import RestartSettings

_FINAL = (0, 2, 4)


@dataclass(frozen=True)
class Attempt:
    """How one start of a job ended.

    Attributes:
        code: the exit code that `topology.job_exit_code` chose among those of the ranks.
        reason: more than the code says, such as the name of a lost machine.
        asked: the user asked the job to stop.
        wait: seconds for which an unreachable machine may still run its ranks.
    """

    code: int
    reason: str = ""
    asked: bool = False
    wait: float = 0.0


class Restarts:
    """Decides after each attempt whether another one follows, and when."""

    def __init__(
        self, settings: RestartSettings, clock: Callable[[], float] = time.monotonic, crashes: Sequence[float] = ()
    ) -> None:
        """
        Args:
            clock: returns seconds.
            crashes: times of earlier crashes, in seconds on the same clock.
        """
        self._settings, self._clock = settings, clock
        self._crashes = list(crashes)

    def pause_after(self, attempt: Attempt) -> float | None:
        """Seconds to wait before the next attempt; None if no attempt follows."""
        if attempt.asked or attempt.code in _FINAL:
            return None
        settings, now = self._settings, self._clock()
        self._crashes = [when for when in self._crashes if now - when < settings.window_hours * 3600]
        if attempt.code != 3:
            self._crashes.append(now)
        if len(self._crashes) > settings.attempts:
            return None
        doubled = settings.backoff_seconds * 2.0 ** max(0, len(self._crashes) - 1)
        return max(min(doubled, settings.backoff_most), attempt.wait)

    @property
    def crashes(self) -> int:
        """Number of crashes within the last `window_hours`."""
        return len(self._crashes)


def supervise(
    attempt: Callable[[], Attempt],
    settings: RestartSettings,
    *,
    say: Callable[[str], None],
    wait: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run attempts until one of them is final.

    Args:
        say: prints a line for the user.
        wait: sleeps for the given seconds; returns True as soon as the user asks to stop.

    Returns:
        The exit code of the last attempt.
    """
    restarts = Restarts(settings, clock)
    while True:
        ended = attempt()
        pause = restarts.pause_after(ended)
        because = ended.reason or f"exit code {ended.code}"
        if pause is None:
            if ended.code not in (*_FINAL, 3) and not ended.asked:
                say(
                    f"{because}; giving up, because {restarts.crashes} crashes within {settings.window_hours:g} h are "
                    f"more than restart.attempts={settings.attempts} allows. The same command continues the run"
                )
            return ended.code
        say(f"{because}; starting again in {pause:.0f} s (crash {restarts.crashes} of {settings.attempts})")
        if wait(pause):
            return ended.code

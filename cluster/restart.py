"""Supervised restarts: what to do after each attempt of a job, with a budget and growing pauses.

Exit codes 2 (bad input) and 4 (a guard) end it: another start would fail in the same way. 3 (saved) and everything else
(a crash, a killed rank, a lost machine) is started again, and continues from the newest checkpoint. Crashes count
towards the budget for `window_hours`; a run that falls over once a week is restarted for ever, one that cannot start is
not. A stop that the user asked for is final.
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
        code: the most telling exit code of its ranks.
        reason: what is known beyond the code, such as the machine that was lost.
        asked: the user asked it to stop.
        wait: seconds during which a machine that is out of reach may still run its ranks.
    """

    code: int
    reason: str = ""
    asked: bool = False
    wait: float = 0.0


class Restarts:
    """Decides after each attempt whether there is another one, and when."""

    def __init__(
        self, settings: RestartSettings, clock: Callable[[], float] = time.monotonic, crashes: Sequence[float] = ()
    ) -> None:
        """
        Args:
            crashes: when, by that clock, the job crashed before.
        """
        self._settings, self._clock = settings, clock
        self._crashes = list(crashes)

    def pause_after(self, attempt: Attempt) -> float | None:
        """Seconds to wait before the next attempt; None: this was the last."""
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
        """Crashes that still count."""
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
        wait: pauses for so many seconds; returns whether the user asked to stop meanwhile.

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
                    f"{because}; {restarts.crashes} crashes within {settings.window_hours:g} h are more than "
                    f"restart.attempts={settings.attempts} allows: giving up. The same command continues the run"
                )
            return ended.code
        say(f"{because}; starting again in {pause:.0f} s (crash {restarts.crashes} of {settings.attempts})")
        if wait(pause):
            return ended.code

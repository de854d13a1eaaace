"""After which exit codes a job is started again, and when."""

from collections.abc import Sequence

import pytest

from dnachunker.cluster.config import RestartSettings
from dnachunker.cluster.restart import Attempt, supervise


class Job:
    """Its attempts end as a list says, on a simulated clock."""

    def __init__(self, ends: Sequence[Attempt], seconds: float = 60.0) -> None:
        self._ends, self._seconds = list(ends), seconds
        self.now, self.starts, self.pauses = 0.0, 0, list[float]()
        self.said: list[str] = []

    def attempt(self) -> Attempt:
        self.starts += 1
        self.now += self._seconds
        return self._ends.pop(0)

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return False

    def run(self, settings: RestartSettings) -> int:
        return supervise(
            self.attempt, settings, say=self.said.append, wait=self.wait, clock=lambda: self.now
        )  # fmt: skip


@pytest.mark.parametrize("code", [0, 2, 4])
def test_codes_that_another_start_would_not_change_are_final(code: int) -> None:
    job = Job([Attempt(code)])
    assert job.run(RestartSettings()) == code
    assert job.starts == 1


@pytest.mark.parametrize("code", [1, 3, 137])
def test_a_saved_or_crashed_job_is_started_again(code: int) -> None:
    job = Job([Attempt(code), Attempt(code), Attempt(0)])
    assert job.run(RestartSettings()) == 0
    assert job.starts == 3


def test_a_stop_that_was_asked_for_is_final() -> None:
    job = Job([Attempt(3, asked=True)])
    assert job.run(RestartSettings()) == 3


def test_a_stop_during_a_pause_is_final() -> None:
    job = Job([Attempt(1)])
    assert supervise(job.attempt, RestartSettings(), say=job.said.append, wait=lambda seconds: True) == 1


def test_pauses_double_up_to_a_limit_and_the_budget_ends_them() -> None:
    job = Job([Attempt(1)] * 9)
    assert job.run(RestartSettings(attempts=5, backoff_seconds=5, backoff_most=30)) == 1
    assert job.starts == 6
    assert job.pauses == [5, 10, 20, 30, 30]
    assert "restart.attempts=5" in job.said[-1]


def test_saving_costs_no_budget() -> None:
    job = Job([*[Attempt(3)] * 20, Attempt(0)])
    assert job.run(RestartSettings(attempts=1)) == 0


def test_old_crashes_are_forgotten() -> None:
    job = Job([*[Attempt(1)] * 20, Attempt(0)], seconds=3600 * 9)
    assert job.run(RestartSettings(attempts=3, window_hours=24)) == 0
    assert max(job.pauses) == 20


def test_the_pause_lasts_until_an_unreachable_machine_has_ended_its_ranks() -> None:
    job = Job([Attempt(1, "lost h2", wait=15), Attempt(0)])
    assert job.run(RestartSettings(backoff_seconds=1)) == 0
    assert job.pauses == [15]
    assert "lost h2" in job.said[0]

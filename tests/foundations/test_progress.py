"""Progress in a pipe is plain lines, and short work prints none."""

import io

import pytest

from dnachunker.foundations import progress
from dnachunker.foundations.progress import Progress


def test_in_a_pipe_long_work_prints_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 1e-6)
    pipe = io.StringIO()
    with Progress("writing", 3_000_000, "bp", stream=pipe) as bar:
        for _ in range(3):
            bar.update(1_000_000)
    lines = pipe.getvalue().splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("writing: ") for line in lines)
    assert "3.00M of 3.00Mbp" in lines[-1]
    assert "\r" not in pipe.getvalue()


def test_short_work_prints_nothing_in_a_pipe() -> None:
    pipe = io.StringIO()
    with Progress("reading", None, "line", stream=pipe) as bar:
        bar.update(5)
    assert pipe.getvalue() == ""


def test_a_count_that_starts_over_keeps_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 1e-6)
    pipe = io.StringIO()
    with Progress("fetching", 10, "B", stream=pipe) as bar:
        bar.restart(40, 100)
        bar.update(60)
    assert "100 of 100B" in pipe.getvalue().splitlines()[-1]
    with Progress("fetching", 10, "B", stream=pipe) as bar:
        bar.restart(0, None)
        bar.update(5)
    assert pipe.getvalue().splitlines()[-1].startswith("fetching: 5.00B")


def test_messages_beside_progress_are_plain_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    with Progress("scoring", 10, "line", stream=pipe) as bar:
        bar.start_t -= 60  # a minute of work
        bar.update(1)
        for number in range(3):
            bar.write(f"message {number}", file=pipe)
    lines = pipe.getvalue().splitlines()
    assert "\r" not in pipe.getvalue()
    assert [line for line in lines if line.startswith("message")] == ["message 0", "message 1", "message 2"]
    assert len([line for line in lines if line.startswith("scoring")]) <= 2

"""The event log reads as if the run had never been interrupted."""

from pathlib import Path

from dnachunker.pretrain.records.event_log import EVENTS, EventLog, read_events


def test_a_resume_takes_back_later_steps_and_a_cut_line_is_ignored(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("start", steps_done=0)
    for step in (1, 2, 3):
        log.write("step", steps_done=step, loss=float("nan") if step == 1 else 1.0 / step)
    log.write("resume", steps_done=2)
    log.write("step", steps_done=3, loss=0.5)
    log.close()
    with (tmp_path / EVENTS).open("a") as file:
        file.write('{"event": "step", "steps_d')
    again = EventLog(tmp_path)
    again.write("evaluation", steps_done=3)
    again.close()
    events = read_events(tmp_path)
    assert [(e["event"], e["steps_done"]) for e in events] == [
        ("start", 0), ("step", 1), ("step", 2), ("resume", 2), ("step", 3), ("evaluation", 3),
    ]  # fmt: skip
    assert events[1]["loss"] is None
    assert events[-2]["loss"] == 0.5
    assert read_events(tmp_path / "absent") == []


def test_a_start_from_nothing_takes_back_everything(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for _ in range(2):
        log.write("start", steps_done=0)
        log.write("step", steps_done=1)
    log.close()
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "step"]

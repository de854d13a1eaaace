"""The seconds of a stop, beside the notice that a launcher gives."""

from dnachunker.pretrain.safety.stop_time import NOTICE_VARIABLE, StopTime


def measured(notice: str | None, *, save: float) -> StopTime:
    stop = StopTime({NOTICE_VARIABLE: notice} if notice else {})
    for what, seconds in {"step": 90.0, "evaluation": 30.0, "save": save}.items():
        stop.measure(what, seconds)
    stop.measure("step", 2.0)  # the first step is long, for kernels are compiled in it
    return stop


def test_a_stop_that_may_outlast_the_notice_is_told_once_in_time() -> None:
    stop = measured("120", save=45.0)
    assert stop.most == 30 + 45 + 2 + 45
    line = stop.warning()
    assert "a stop may take 122 s (step 2.0, evaluation 30.0, save 45.0, and a second save)" in line
    assert "kills the ranks 120 s after its signal" in line
    assert "cluster.slurm.signal_seconds" in line
    assert stop.warning() == ""
    assert measured("120", save=43.0).warning() == ""
    assert measured(None, save=4500.0).warning() == "", "no launcher has given a notice"

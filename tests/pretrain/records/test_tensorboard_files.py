"""TensorBoard files: its own reader finds each point of the event log once, after a kill and after steps taken back."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from event_logs import add, evaluation, new_run, node, start, step

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.planning.checks import check_run
from dnachunker.pretrain.records.tensorboard_files import TensorBoardFiles

WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from event_logs import add, evaluation, start, step
from dnachunker.pretrain.records.tensorboard_files import TensorBoardFiles
run = Path(sys.argv[1])
add(run, [])
files = TensorBoardFiles(run, print, fresh=True)
add(run, [start()])
for done in range(1, 300):
    add(run, [step(done, loss=float(done)), evaluation(done, done / 2)])
    files.wake()
time.sleep(600)
"""


def points(run: Path, name: str) -> list[tuple[int, float]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return [(point.step, point.value) for point in found.Scalars(name)]


def test_after_a_kill_and_a_resume_each_point_is_there_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = new_run(tmp_path / "run", steps=9)
    support = Path(__file__).parents[2] / "support"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run), str(support)])
    position = run / "tensorboard" / "position.json"
    deadline = time.monotonic() + 60
    while not position.exists():  # until it has copied some
        assert time.monotonic() < deadline
        time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    # a kill between the points and the file that says how far the copy has got
    position.write_text('{"offset": 0}')
    said: list[str] = []
    files = TensorBoardFiles(run, said.append, fresh=False)
    add(run, [{**start(), "event": "resume", "steps_done": 5}])
    add(run, [step(6, loss=0.6), step(7, loss=0.7), evaluation(7, 0.07)])
    files.wake()
    files.close()
    more = TensorBoardFiles(run, said.append, fresh=False)  # another start, which has only one step to add
    add(run, [{**start(), "event": "resume", "steps_done": 7}, step(8, loss=0.8)])
    add(run, [{"event": "system", "time": 16.0, "steps_done": 8, "node0": node()}])
    more.wake()
    more.close()
    assert not said
    losses = [*((done, float(done)) for done in range(1, 6)), (6, 0.6), (7, 0.7), (8, 0.8)]
    assert points(run, "train/mlm_loss") == [(done, pytest.approx(loss)) for done, loss in losses]
    assert points(run, "valid/masked_loss") == [
        *((done, done / 2) for done in range(1, 6)), (7, pytest.approx(0.07)),
    ]  # fmt: skip
    assert points(run, "system/node0/cpu_percent") == [(8, 50.0)]


def test_a_run_that_starts_over_forgets_what_was_before(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = new_run(tmp_path / "run", steps=9)
    for losses in ((9.0, 8.0, 7.0), (1.0, 0.5)):
        add(run, [])
        files = TensorBoardFiles(run, print, fresh=True)
        add(run, [start(), *(step(done, loss=loss) for done, loss in enumerate(losses, 1))])
        files.close()
    assert points(run, "train/loss") == [(1, 1.0), (2, 0.5)]


def test_without_tensorboard_the_run_is_refused_in_one_line(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnachunker.pretrain.planning.checks.find_spec", lambda name: None)
    values = {"run": str(tmp_path / "run"), "steps": 1, "data": {"corpus": str(toy_folder)}}
    check_run(validate_config(PretrainConfig, values, origin="test"), 1)
    with pytest.raises(BadInput, match=r"pip install 'dnachunker\[tensorboard\]'"):
        check_run(validate_config(PretrainConfig, {**values, "tracking": {"tensorboard": True}}, origin="test"), 1)

"""A checkpoint that a thread writes beside training: what it holds, when it counts, and what a failure says."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dnachunker.foundations.failures import Failure
from dnachunker.pretrain.checkpoints import saving
from dnachunker.pretrain.checkpoints.saving import HostMemory, Save, newest_whole_checkpoint, writing_thread
from dnachunker.pretrain.checkpoints.state import RunState
from dnachunker.pretrain.config import CheckpointSettings
from dnachunker.pretrain.engine.ranks import Rank


class Silent(Rank):
    """A rank that fails the test when it uses a collective."""

    def gather(self, value: Any) -> Any:
        raise AssertionError("a collective")

    sum_tensor = tensor_from_main = from_main = barrier = gather


def silent(rank: int, world_size: int) -> Rank:
    return Silent(rank, world_size, rank, torch.device("cpu"))


ALONE = Rank(0, 1, 0, torch.device("cpu"))


def begin(run: Path, vector: torch.Tensor, step: int, rank: Rank = ALONE, **values: Any) -> Save:
    """Begin the save of a training state that is one vector."""
    state = RunState(
        steps_done=step, samples_seen=1, updates=1, world_size=1, zero_stage=1, precision="fp32", device="cpu",
        skipped_batches=[], guards={}, corpus_fingerprint="", identity={}, versions={},
    )  # fmt: skip
    engine: Any = SimpleNamespace(
        moments=lambda: {"exp_avg/0/vector": vector}, weights=lambda: iter([("vector", vector)])
    )
    memory, settings = values.pop("memory", HostMemory()), CheckpointSettings(**values)
    return Save(run, engine, state, {"logits": vector}, rank, settings, memory, writing_thread(settings))


def end(save: Save) -> Path:
    """Wait until a save is complete."""
    save.finish()
    return save.folder


def step_border(*saves: Save) -> set[bool]:
    """What training does with the save of each rank after a step; whether each is complete."""
    told = [sum(numbers) for numbers in zip(*(save.progress() for save in saves), strict=True)]
    return {save.advance(*told) for save in saves}


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are written when this event is set."""
    ready, honest = threading.Event(), saving.save_file

    def write(*arguments: Any) -> None:
        assert ready.wait(30)
        honest(*arguments)

    monkeypatch.setattr(saving, "save_file", write)
    return ready


def test_training_goes_on_while_a_thread_writes_the_step_that_was_copied(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    vector = torch.arange(4.0)
    save = begin(tmp_path, vector, 8)
    vector += 100  # the next step
    assert step_border(save) == {False}
    assert newest_whole_checkpoint(tmp_path) == (None, []), "not complete, so absent"
    slow_disk.set()
    folder = end(save)
    assert newest_whole_checkpoint(tmp_path) == (folder, [])
    assert load_file(folder / "weights.safetensors")["vector"].tolist() == [0, 1, 2, 3]
    assert load_file(folder / "optimizer" / "rank-00000.safetensors")["exp_avg/0/vector"].tolist() == [0, 1, 2, 3]
    assert set(json.loads((folder / "manifest.json").read_text())) == {
        "optimizer/rank-00000.safetensors", "probe.safetensors", "run_state.json", "weights.safetensors",
    }  # fmt: skip


def test_two_ranks_complete_a_checkpoint_without_a_collective(tmp_path: Path, slow_disk: threading.Event) -> None:
    vectors = [torch.full((4,), float(rank)) for rank in range(2)]
    saves = [begin(tmp_path, vector, 8, silent(rank, 2)) for rank, vector in enumerate(vectors)]
    assert step_border(*saves) == {False}
    slow_disk.set()
    deadline = time.monotonic() + 30
    while step_border(*saves) != {True}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    folder = saves[0].folder
    assert newest_whole_checkpoint(tmp_path) == (folder, [])
    for rank in range(2):
        stored = load_file(folder / "optimizer" / f"rank-{rank:05d}.safetensors")
        assert stored["exp_avg/0/vector"].tolist() == [rank] * 4
    assert set(json.loads((folder / "manifest.json").read_text())) == {
        "optimizer/rank-00000.safetensors", "optimizer/rank-00001.safetensors", "probe.safetensors", "run_state.json",
        "weights.safetensors",
    }  # fmt: skip


def test_the_step_never_waits_for_the_files_of_a_checkpoint_that_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, threads = threading.Event(), set[str]()
    honest = saving.write_text

    def write(*arguments: Any) -> None:
        threads.add(threading.current_thread().name)
        assert ready.wait(30)
        honest(*arguments)

    monkeypatch.setattr(saving, "write_text", write)  # of `latest`, the last file
    save = begin(tmp_path, torch.ones(2), 4)
    for _ in range(100):
        assert step_border(save) == {False}
        time.sleep(0.01)
        if threads:
            break
    assert threads == {"checkpoint_0"}
    ready.set()
    end(save)
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000004\n"


def test_saves_reuse_the_memory_of_their_copies(tmp_path: Path) -> None:
    memory, vector = HostMemory(), torch.arange(4.0)
    first = memory.copy([("a", vector), ("b", vector)])
    places = {name: copy.data_ptr() for name, copy in first.items()}
    second = memory.copy([("a", vector + 1), ("b", vector)])
    assert {name: copy.data_ptr() for name, copy in second.items()} == places
    assert second["a"].tolist() == [1, 2, 3, 4]
    for step in (4, 8):
        vector += 1
        folder = end(begin(tmp_path, vector, step, memory=memory))
        assert load_file(folder / "weights.safetensors")["vector"].tolist() == vector.tolist()


def test_a_save_that_never_gets_its_name_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    vector = torch.arange(4.0)
    before = end(begin(tmp_path, vector, 4))
    begin(tmp_path, vector, 8, asynchronous=False)  # its files are written, and the process is killed here
    assert newest_whole_checkpoint(tmp_path) == (before, [])
    after = end(begin(tmp_path, vector, 8))
    assert newest_whole_checkpoint(tmp_path) == (after, [])
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("function", ["save_file", "write_text"])
def test_a_failure_to_write_or_to_name_is_one_line_for_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool, function: str
) -> None:
    def full_disk(content: Any, path: Path) -> None:
        raise OSError(28, "No space left on device")

    failing: Callable[..., None] = full_disk
    monkeypatch.setattr(saving, function, failing)
    save = begin(tmp_path, torch.ones(2), 4, asynchronous=asynchronous)
    with pytest.raises(Failure, match=r"cannot be written: .*No space left.*; older checkpoints are intact") as failure:
        save.finish()
    assert failure.value.on_all_ranks

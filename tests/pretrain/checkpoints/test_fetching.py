"""A run folder without a checkpoint goes on from copies in a folder or an object store."""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from dnachunker.foundations.failures import BadInputOnAllRanks
from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.checkpoints import fetching
from dnachunker.pretrain.checkpoints.copies import RemoteCopies
from dnachunker.pretrain.checkpoints.fetching import fetch_checkpoint
from dnachunker.pretrain.checkpoints.saving import newest_whole_checkpoint
from dnachunker.pretrain.checkpoints.state import RunState, identity_of
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.order.curriculum import SkippedBatches

RANKS = 3


def config_of(run: Path, **checkpoint: Any) -> PretrainConfig:
    values = {"run": str(run), "steps": 9, "data": {"corpus": "c"}, "checkpoint": checkpoint}
    return validate_config(PretrainConfig, values, origin="test")


def make(run: Path, step: int) -> Path:
    """A complete checkpoint of five files."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    (folder / "engine").mkdir(parents=True)
    state = RunState(
        steps_done=step, samples_seen=1, updates=1, world_size=1, zero_stage=1, precision="fp32", device="cpu",
        skipped_batches=[], guards={}, corpus_fingerprint="f", identity=identity_of(config_of(run)), versions={},
    )  # fmt: skip
    (folder / "run_state.json").write_text(state.model_dump_json())
    for name in ("weights.safetensors", *(f"engine/rank{rank}.pt" for rank in range(3))):
        (folder / name).write_bytes(f"{name} of {step}".encode() * 100)
    files = [path for path in folder.rglob("*") if path.is_file()]
    digests = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps(digests))
    return folder


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where copies are: a folder, or an object store."""
    if request.param == "folder":
        yield str(tmp_path / "far")
    else:
        yield f"memory://{tmp_path.name}/far"
        fsspec.filesystem("memory").store.clear()


def copy_to(place: str, run: Path, *steps: int) -> None:
    for step in steps:
        copies = RemoteCopies(run, place, pytest.fail)
        copies.add(make(run, step))
        copies.close()


class ThreadRank:
    """A rank among threads of this process, with the collectives that are needed here."""

    def __init__(self, rank: int, barrier: threading.Barrier, told: list[Any]) -> None:
        self.rank, self.world_size, self.is_main = rank, RANKS, rank == 0
        self._barrier, self._told = barrier, told

    def barrier(self) -> None:
        self._barrier.wait(30)

    def gather(self, value: Any) -> list[Any]:
        self._told[self.rank] = value
        self.barrier()
        told = list(self._told)
        self.barrier()
        return told

    def from_main(self, value: Any) -> Any:
        return self.gather(value)[0]


def on_all_ranks(run: Path, steps: int = 9, **settings: Any) -> list[str]:
    """The lines of `fetch_checkpoint`, the same on all ranks."""
    barrier, told = threading.Barrier(RANKS), [None] * RANKS
    config = config_of(run, **settings).model_copy(update={"steps": steps})

    def call(rank: int) -> list[str]:
        one: Any = ThreadRank(rank, barrier, told)
        fetched, lines = fetch_checkpoint(config, "f", one)
        assert fetched == any(line.startswith("fetched") for line in lines)
        return lines

    with ThreadPoolExecutor(RANKS) as pool:
        first, *others = pool.map(call, range(RANKS))
    assert all(lines == first for lines in others)
    return first


def test_every_rank_fetches_its_share_of_the_newest_copy(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_to(place, tmp_path / "old", 4, 8)
    fetched: list[tuple[int, str]] = []
    honest = fetching.storage.download

    def note(location: str, path: Path) -> None:
        fetched.append((threading.get_ident(), location))
        honest(location, path)

    monkeypatch.setattr(fetching.storage, "download", note)
    assert on_all_ranks(tmp_path / "new", copy_to=place) == [f"fetched step-00000008 from {place}"]
    found, damage = newest_whole_checkpoint(tmp_path / "new")
    assert found == tmp_path / "new" / "checkpoints" / "step-00000008"
    assert damage == []
    assert (tmp_path / "new" / "checkpoints" / "latest").read_text() == "step-00000008\n"
    assert len(fetched) == len({location for _, location in fetched}) == 5
    assert len({thread for thread, _ in fetched}) == RANKS
    # a run that has a checkpoint does not look elsewhere
    shutil.rmtree(tmp_path / "far", ignore_errors=True)
    assert on_all_ranks(tmp_path / "new", resume_from=place) == []


def test_a_damaged_copy_is_passed_over_and_nothing_else_is_left_of_it(place: str, tmp_path: Path) -> None:
    copy_to(place, tmp_path / "old", 4, 8)
    with fsspec.open(f"{place}/step-00000008/engine/rank1.pt", "wb") as file:
        file.write(b"other bytes")
    said = on_all_ranks(tmp_path / "new", resume_from=place)
    assert said == [
        f"not used: {place}/step-00000008/engine/rank1.pt: differs from its sha256 in the manifest",
        f"fetched step-00000004 from {place}",
    ]
    left = {path.name for path in (tmp_path / "new" / "checkpoints").iterdir()}
    assert left == {"latest", "step-00000004"}
    filesystem, path = fsspec.core.url_to_fs(f"{place}/step-00000004/weights.safetensors")
    filesystem.rm(path)
    with pytest.raises(BadInputOnAllRanks, match=r"every checkpoint is damaged: .*differs.*fix this, or name another"):
        on_all_ranks(tmp_path / "other", resume_from=place)
    assert list((tmp_path / "other" / "checkpoints").iterdir()) == []


def test_a_place_without_a_whole_copy_starts_a_new_run_only_where_copies_were_to_go(place: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputOnAllRanks, match="has no complete checkpoint"):
        on_all_ranks(tmp_path / "new", resume_from=place)
    assert on_all_ranks(tmp_path / "new", copy_to=place) == [
        f"checkpoint.copy_to: {place} has no checkpoint yet, so this is a new run"
    ]
    with pytest.raises(BadInputOnAllRanks, match="cannot be read: .*; fix this, or name another place"):
        on_all_ranks(tmp_path / "new", copy_to="nowhere://far")


def test_a_checkpoint_of_another_run_is_refused_and_not_kept(place: str, tmp_path: Path) -> None:
    copy_to(place, tmp_path / "old", 4, 8)
    with pytest.raises(BadInputOnAllRanks, match="cannot resume: steps was 9 and is now 10.*name another place"):
        on_all_ranks(tmp_path / "new", steps=10, copy_to=place)
    assert list((tmp_path / "new" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), RuntimeError("no credentials")])
def test_a_place_that_fails_is_no_reason_to_go_back_to_an_older_checkpoint(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    copy_to(place, tmp_path / "old", 4, 8)
    honest = fetching.storage.download

    def fail(location: str, path: Path) -> None:
        if location.endswith("step-00000008/engine/rank2.pt"):
            raise error
        honest(location, path)

    monkeypatch.setattr(fetching.storage, "download", fail)
    with pytest.raises(BadInputOnAllRanks, match="denied|no credentials"):
        on_all_ranks(tmp_path / "new", resume_from=place)
    assert list((tmp_path / "new" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "engine/../../out", "..\\out"])
def test_a_manifest_leads_nowhere_else(place: str, tmp_path: Path, name: str) -> None:
    copy_to(place, tmp_path / "old", 4)
    with fsspec.open(f"{place}/step-00000004/manifest.json", "w") as file:
        json.dump({name: "0" * 64}, file)
    with pytest.raises(BadInputOnAllRanks, match="is no name of a file in a checkpoint"):
        on_all_ranks(tmp_path / "new", resume_from=place)


def test_batches_that_the_checkpoint_leaves_out_stay_out_in_another_folder(tmp_path: Path) -> None:
    skipped = SkippedBatches(tmp_path, [7, 3])
    assert [skipped.batch_of(step) for step in range(7)] == [0, 1, 2, 4, 5, 6, 8]
    skipped.add(5)
    assert SkippedBatches(tmp_path).numbers == [3, 5, 7]


@pytest.mark.slow
def test_another_machine_continues_to_the_same_weights(
    dnachunker: Callable[..., Any], sample_corpus: Path, tmp_path: Path
) -> None:
    command = ["pretrain", "--config", "tiny", "--corpus", sample_corpus, "--processes", "1", "tracking.enabled=false"]
    command += ["data.seq_len=128", "data.global_batch=4", "data.streams=4", "evaluation.windows=2", "steps=4"]
    command += ["checkpoint.every=2"]
    done = dnachunker(*command, "--run", tmp_path / "here", f"checkpoint.copy_to={tmp_path / 'far'}")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "far" / "step-00000004")
    done = dnachunker(*command, "--run", tmp_path / "there", "--resume-from", tmp_path / "far")
    assert done.returncode == 0, done.stderr
    assert f"fetched step-00000002 from {tmp_path / 'far'}" in done.stderr + done.stdout
    here, there = (
        hashlib.sha256((tmp_path / run / "checkpoints" / "step-00000004" / "weights.safetensors").read_bytes())
        for run in ("here", "there")
    )
    assert here.hexdigest() == there.hexdigest()
    done = dnachunker(*command, "--run", tmp_path / "refused", "--resume-from", tmp_path / "empty")
    assert done.returncode == 2
    assert "has no complete checkpoint" in done.stderr
    assert not (tmp_path / "refused").exists()

"""Which checkpoint an export takes after a loss spike, and what it says about the others."""

import hashlib
import json
from pathlib import Path

import pytest

from dnachunker.foundations.failures import BadInput
from dnachunker.pretrain.export.choice import checkpoint_to_export
from dnachunker.pretrain.records.event_log import EventLog

NAN = float("nan")


def run_with(
    folder: Path, saved: list[int], evaluated: dict[int, float], spikes: tuple[int, ...] = (), key: str = "masked"
) -> Path:
    """A run folder: checkpoints after the steps of `saved`, evaluations by step, steps whose loss was a spike."""
    for step in saved:
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights.safetensors").write_bytes(b"weights")
        digest = hashlib.sha256(b"weights").hexdigest()
        (checkpoint / "manifest.json").write_text(json.dumps({"weights.safetensors": digest}))
    log = EventLog(folder)
    for step in sorted({*evaluated, *spikes}):
        if step in spikes:
            log.write("guard", steps_done=step, kind="spike", detail="loss 9")
        if step in evaluated:
            log.write("evaluation", steps_done=step, **{f"{key}_loss": evaluated[step]})
    log.close()
    return folder


HEALTHY = {10: 1.35, 20: 1.30, 30: 1.31}


@pytest.mark.parametrize(
    ("saved", "evaluated", "spikes", "taken", "warning"),
    [
        ([20, 30], HEALTHY, (), 30, ""),
        ([20, 26], HEALTHY, (), 26, ""),
        ([20, 30], {**HEALTHY, 30: 7.2}, (), 20, "the evaluation at step 30, which judges step 30, gave 7.20 nats"),
        ([20, 26], HEALTHY, (27,), 20, "step 26 was saved on a loss spike"),  # training had recovered by step 30
        ([20, 30], HEALTHY, (30, 31), 30, ""),  # measured at that very step, whatever the training batch was
        ([20, 26], {10: 1.35, 20: 1.30}, (), 20, "no evaluation followed step 26"),
        ([20, 30], {**HEALTHY, 30: NAN}, (), 20, "gave inf nats"),
    ],
)
@pytest.mark.parametrize("key", ["masked", "next_base"])
def test_an_export_takes_the_newest_checkpoint_that_is_sound_and_says_what_is_wrong_with_newer_ones(
    tmp_path: Path, saved: list[int], evaluated: dict[int, float], spikes: tuple[int, ...], taken: int, warning: str,
    key: str,
) -> None:  # fmt: skip
    run = run_with(tmp_path, saved, evaluated, spikes, key)
    checkpoint, said = checkpoint_to_export(run)
    assert checkpoint.name == f"step-{taken:08d}"
    assert warning in said
    assert bool(said) == bool(warning)


def test_without_a_sound_checkpoint_there_is_no_export_unless_one_is_named(tmp_path: Path) -> None:
    run = run_with(tmp_path, [16, 26], {10: 1.35, 20: 8.0, 30: 6.0})
    with pytest.raises(BadInput, match=r"step 30, which judges step 26, gave 6.00 nats.*--step"):
        checkpoint_to_export(run)
    checkpoint, said = checkpoint_to_export(run, 16)
    assert checkpoint.name == "step-00000016"
    assert said.startswith("step 16 is exported as you ask, but the evaluation at step 20")
    with pytest.raises(BadInput, match="no complete checkpoint of step 17"):
        checkpoint_to_export(run, 17)


def test_a_model_worse_than_chance_is_not_sound_at_the_first_evaluation_either(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="gave 5.00 nats"):
        checkpoint_to_export(run_with(tmp_path / "bad", [10], {10: 5.0}))
    assert checkpoint_to_export(run_with(tmp_path / "new", [10], {10: 2.8}))[1] == ""
    with pytest.raises(BadInput, match="no complete checkpoint"):
        checkpoint_to_export(tmp_path)

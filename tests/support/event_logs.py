"""Run folders with a made-up event log, for tests of what reads event logs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.records.event_log import EVENTS
from dnachunker.pretrain.run_folder import store_config

START = {
    "world_size": 2, "device": "cpu", "zero_stage": 1, "corpus": "c" * 64, "code": {}, "machines": [], "versions": {},
    "damaged": [], "doubts": [],
}  # fmt: skip


def new_run(folder: Path, *, steps: int, **overrides: Any) -> Path:
    """A run folder with a config and no event yet."""
    values = {"run": str(folder), "steps": steps, "data": {"corpus": "corpora/toy"}, **overrides}
    store_config(validate_config(PretrainConfig, values, origin="test"))
    return folder


def add(run: Path, events: Iterable[dict[str, Any]]) -> None:
    """Append events to the run's log."""
    with (run / EVENTS).open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def start(time: float = 0.0, **values: Any) -> dict[str, Any]:
    return {"event": "start", "time": time, "steps_done": 0, **START, **values}


def step(done: int, *, time: float | None = None, loss: float | None = 1.3, **values: Any) -> dict[str, Any]:
    """A `step` event: 1,000 bases, 5,000 FLOPs and two seconds."""
    return {
        "event": "step", "time": 2.0 * done if time is None else time, "steps_done": done, "loss": loss,
        "mlm_loss": loss, "bases": 1000.0, "flops": 5000.0, "bases_per_second": 500.0, "utilisation": 0.25, "lr": 0.01,
        "grad_norm": 1.0, "seconds": 2.0, "data_wait": 0.1, "compression": {"stage0": 0.5, "stage1": 0.4},
        "chunk_length": {stage: {"p10": 1.0, "p50": 2.0, "p90": 4.0} for stage in ("stage0", "stage1")}, **values,
    }  # fmt: skip


def evaluation(done: int, loss: float, *, time: float | None = None) -> dict[str, Any]:
    return {
        "event": "evaluation", "time": 2.0 * done if time is None else time, "steps_done": done, "masked_loss": loss,
        "objective_loss": loss - 0.05, "order0_loss": 1.36, "order3_loss": 1.3, "order5_loss": 1.28, "masked": 100.0,
        "masked_accuracy": 0.3, "compression": {"stage0": 0.5, "stage1": 0.4},
    }  # fmt: skip


def node(**values: float) -> dict[str, float]:
    return {"cpu_percent": 50.0, "memory_percent": 40.0, "data_wait_seconds": 0.1, "forward_seconds": 0.5, **values}

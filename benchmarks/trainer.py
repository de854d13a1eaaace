"""Cost of the training loop compared with a bare DeepSpeed loop on the same batches, and cost of the records of a run.

python benchmarks/trainer.py [--corpus CORPUS] [--steps 20] [--rounds 5] [KEY=VALUE ...]

One rank, preset tiny. Each round trains the same steps in five ways, one after the other: bare; without MLflow; with
MLflow as by default; with MLflow, the load of the machine every second and, where TensorBoard is installed, its files;
with a dead MLflow server.
The table gives medians over the rounds: seconds a step, and the ratio within a round. Both are given by the wall clock
and by CPU time, because other work on the machine disturbs CPU time less. Where it disturbs both, the last column still
tells: the part of a step's CPU time that records take, in the training thread and in threads of their own. Importing
MLflow and TensorBoard takes some seconds once a run, in the background, and is not counted.
"""

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29611")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from dnachunker.cli import main as dnachunker
from dnachunker.foundations.typed_config import load_config
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.deepspeed_engine import start_process_group
from dnachunker.pretrain.engine.kernel_check import settle_backends
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.run import Run
from dnachunker.pretrain.run_folder import store_config
from dnachunker.pretrain.safety.signals import StopSignals
from dnachunker.pretrain.safety.watchdog import Watchdog
from dnachunker.pretrain.trainer import train

Seconds = tuple[float, float, float]  # by the wall clock, by the CPU clock, and CPU time of records

_WARM_UP = 3
_NONE = ["tracking.enabled=false"]
_DEAD = ["tracking.uri=http://127.0.0.1:9"]  # nothing listens on the discard port
_TENSORBOARD = find_spec("tensorboard") is not None
_ALL = ["tracking.system_seconds=1", f"tracking.tensorboard={str(_TENSORBOARD).lower()}"]


def build(corpus: str, folder: Path, steps: int, overrides: Sequence[str]) -> Run:
    """A new run of the preset tiny that evaluates and saves only at its end."""
    settings: dict[str, Any] = {"data.corpus": corpus, "run": str(folder), "steps": _WARM_UP + steps}
    settings |= {"evaluation.every": 10**6, "evaluation.windows": 1, "checkpoint.every": 10**6}
    config = load_config(PretrainConfig, "tiny", overrides, kind="pretrain", settings=settings)
    store_config(config)
    watchdog = Watchdog(folder, 0, 1, limit=3600, orphaned=lambda _: None, leave=sys.exit)
    rank = Rank.from_environment()
    return Run(config, rank, StopSignals(), watchdog, settle_backends(config.engine, config.model, rank))


def close(run: Run) -> None:
    """Close the run and its watchdog, without waiting for a dead MLflow server."""
    run.close()
    run.watchdog.close()


def time_trainer(corpus: str, folder: Path, steps: int, overrides: Sequence[str]) -> Seconds:
    """Time of a step of `trainer.train`, measured between the steps' events in the log."""
    run = build(corpus, folder, steps, overrides)
    stamps: list[Seconds] = []
    honest = run.journal.write
    writing = 0.0  # CPU time of the training thread

    def write(event: str, **values: Any) -> None:
        nonlocal writing
        began = time.thread_time()
        honest(event, **values)
        writing += time.thread_time() - began
        if event == "step":
            stamps.append(now(writing + threads_of(run)))

    run.journal.write = write  # type: ignore[method-assign]
    train(run)
    close(run)
    return since(stamps[_WARM_UP - 1], stamps[-1], steps)


def threads_of(run: Run) -> float:
    """CPU time of the threads that copy the event log."""
    ids = {copy._thread.native_id for copy in run.journal._copies}
    return sum(thread.user_time + thread.system_time for thread in psutil.Process().threads() if thread.id in ids)


def time_bare(corpus: str, folder: Path, steps: int, overrides: Sequence[str]) -> Seconds:
    """Time of a step with only forward, backward and update, on the same batches as the trainer's."""
    run = build(corpus, folder, steps, overrides)
    engine: Any = run.engine.network
    # copied, because a draw may overwrite the batch before it
    batches = [deepcopy(run.data.draw().micro_batches[0]) for _ in range(_WARM_UP + steps)]
    for index, batch in enumerate(batches):
        if index == _WARM_UP:
            began = now()
        loss = engine(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels,
            loss_weights=batch.loss_weights, loss_normalizer=float(batch.weight_sum),
            sequence_normalizer=len(batch.labels),
        ).loss  # fmt: skip
        engine.backward(loss)
        engine.step()
    seconds = since(began, now(), steps)
    close(run)
    return seconds


def now(records: float = 0.0) -> Seconds:
    """Readings of the wall clock and of this process's CPU clock, beside the CPU time of records so far."""
    return time.perf_counter(), time.process_time(), records


def since(first: Seconds, last: Seconds, steps: int) -> Seconds:
    """Seconds a step by each clock."""
    return tuple((end - begin) / steps for begin, end in zip(first, last, strict=True))  # type: ignore[return-value]


def main() -> None:
    """Measure all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="corpus folder (default: built from the embedded sample)")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override config keys of every run")
    options = parser.parse_args()
    importlib.import_module("mlflow.tracking")
    if _TENSORBOARD:
        importlib.import_module("torch.utils.tensorboard")
    start_process_group(Rank.from_environment())
    found: dict[str, list[Seconds]] = {"bare": [], "trainer": [], "mlflow": [], "all": [], "dead": []}
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or str(Path(scratch, "corpus"))
        if not options.corpus:
            dnachunker(["shard", "--config", "sample", "--output", corpus])
        for number in range(options.rounds):
            place = Path(scratch, str(number))
            given = options.overrides
            found["bare"].append(time_bare(corpus, place / "bare", options.steps, [*_NONE, *given]))
            # one store for all rounds: making its tables takes seconds, of which medians are free
            store = f"tracking.uri=sqlite:///{scratch}/mlflow.db"
            ways = (("trainer", _NONE), ("mlflow", [store]), ("all", [store, *_ALL]), ("dead", _DEAD))
            for name, tracking in ways if number % 2 else reversed(ways):  # the load of the machine drifts
                found[name].append(time_trainer(corpus, place / name, options.steps, [*tracking, *given]))
    titles = ("", "seconds a step", "CPU seconds a step", "speed (wall)", "speed (CPU)", "records, of the CPU time")
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    for name, label, base in (
        ("bare", "bare DeepSpeed loop", "bare"),
        ("trainer", "trainer, of the bare loop", "bare"),
        ("mlflow", "trainer with MLflow, of the trainer", "trainer"),
        ("all", "trainer with all records, of the trainer", "trainer"),
        ("dead", "trainer with a dead tracking server, of the trainer", "trainer"),
    ):
        pairs = list(zip(found[name], found[base], strict=True))
        seconds = [statistics.median(own[clock] for own, _ in pairs) for clock in range(2)]
        speeds = [statistics.median(other[clock] / own[clock] for own, other in pairs) for clock in range(2)]
        share = 100 * statistics.median(own[2] / own[1] for own, _ in pairs)
        numbers = (f"{value:.3f}" for value in (*seconds, *speeds))
        print(f"| {label} | {' | '.join(numbers)} | {share:.2f} % |")


if __name__ == "__main__":
    main()

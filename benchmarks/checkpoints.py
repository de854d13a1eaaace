"""What checkpoints cost: how long training waits for a save, its speed beside saves, and the memory of a resume.

python benchmarks/checkpoints.py [--only waits speed memory] [--ranks 2] [--preset small] [--repeat 9]

The ranks are processes on this machine. *Waits*: a save is compared with the plain copy of the same tensors into memory
that is in use already; both are timed in turns, after a barrier, and the table gives medians. The states are those of
the preset's model; its steps are on short windows, since their length changes no checkpoint. The sum over ranks at the
end of a step, in which training agrees on stops too, is not counted.

*Speed*: in turns, five steps without a save and five steps that begin with one. Each rank has one window of the preset
in a step, so that a step is shorter than a real one. The table has medians, and the median of the ratios of neighbours:
of wall-clock times, and of the CPU time that both ranks use.

*Memory*: what a rank allocates while it loads a checkpoint of other ranks and another ZeRO stage (growth of anonymous
memory at its peak), beside the moments that it keeps from then on.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"

import torch
import yaml
from zero_memory import in_ranks

from dnachunker.foundations.typed_config import validate_config
from dnachunker.pretrain.checkpoints.loading import load_checkpoint
from dnachunker.pretrain.checkpoints.saving import HostMemory, Save, writing_thread
from dnachunker.pretrain.checkpoints.state import RunState, read_state
from dnachunker.pretrain.config import CheckpointSettings, PretrainConfig
from dnachunker.pretrain.engine.build_model import build_model
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine, start_process_group
from dnachunker.pretrain.engine.optimizer import build_adamw
from dnachunker.pretrain.engine.ranks import Rank

PRESETS = Path(__file__).parents[1] / "configs" / "pretrain"
SHORT = 512  # bases of a window where its length does not matter
STEPS = 5  # from one save to the next
MB = 1e6


class Training:
    """The model of a preset under DeepSpeed, on random windows."""

    def __init__(self, preset: str, zero_stage: int, precision: str, bases: int | None = SHORT) -> None:
        """
        Args:
            bases: of a window, one for each rank; None: as many as the preset has.
        """
        self.rank, self.zero_stage, self.precision = Rank.from_environment(), zero_stage, precision
        start_process_group(self.rank)
        values = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
        values |= {"run": "r", "engine": {"zero_stage": zero_stage, "precision": precision}}
        bases = bases or int(values["data"]["seq_len"])
        values["data"] |= {"corpus": "c", "global_batch": self.rank.world_size, "seq_len": bases}
        config = validate_config(PretrainConfig, values, origin="benchmark")
        model = build_model(config.model, config.tokenization, config.engine, seed=0)
        optimizer = build_adamw(model, model.no_weight_decay_parameter_names(), config.optimizer)
        self.engine = TrainingEngine(
            model, optimizer, config.engine, self.rank, global_batch=self.rank.world_size, accumulation=1,
            clip_grad_norm=1.0,
        )  # fmt: skip
        ids = torch.randint(7, 11, (1, bases))
        self._inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool), "labels": ids}
        self._inputs |= {"loss_weights": torch.ones(1, bases), "loss_normalizer": float(bases)}
        self._settings = {kind: CheckpointSettings(asynchronous=kind) for kind in (False, True)}
        self._threads = {kind: writing_thread(settings) for kind, settings in self._settings.items()}

    def step(self) -> None:
        """Take an optimizer step that changes no weight: a model that learns this window cuts it ever finer."""
        self.engine.backward(self.engine.forward(**self._inputs, sequence_normalizer=self.rank.world_size).loss)
        self.engine.step(0.0)

    def save(self, run: Path, steps_done: int, memory: HostMemory, *, asynchronous: bool) -> Save:
        """Begin a save."""
        state = RunState(
            steps_done=steps_done, samples_seen=steps_done, updates=self.engine.updates, skipped_batches=[], guards={},
            world_size=self.rank.world_size, zero_stage=self.zero_stage, precision=self.precision, device="cpu",
            corpus_fingerprint="", identity={}, versions={},
        )  # fmt: skip
        return Save(
            run, self.engine, state, {"logits": torch.zeros(2, 4096, 16)}, self.rank, self._settings[asynchronous],
            memory, self._threads[asynchronous],
        )  # fmt: skip


class Stopwatch:
    """Adds up wall-clock seconds, and CPU seconds of the calling thread, which other processes lengthen less."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._began[0]
        self.cpu += time.thread_time() - self._began[1]


def stalls(run: Path, preset: str, zero_stage: int, precision: str, repeat: int) -> dict[str, list[list[float]]]:
    """Seconds (wall, CPU) that this rank copies, and that it waits for saves of both kinds."""
    training = Training(preset, zero_stage, precision)
    memory, beside = HostMemory(), HostMemory()
    found: dict[str, list[list[float]]] = {"copy": [], "asynchronous": [], "synchronous": []}
    for number in range(1, repeat + 2):  # the first touches the memory
        for kind, times in found.items():
            training.step()
            training.rank.barrier()
            watch, complete = Stopwatch(), False
            with watch:
                if kind == "copy":
                    beside.copy(training.engine.moments().items())
                    beside.copy(training.engine.weights())
                    complete = True
                else:
                    parallel = kind == "asynchronous"
                    save = training.save(run, 2 * number + parallel, memory, asynchronous=parallel)
                    if not parallel:
                        save.finish()
                        complete = True
            while not complete:
                training.step()
                with watch:
                    progress = save.progress()
                told = training.rank.sum(0.0, *progress)[1:]
                with watch:
                    complete = save.advance(*told)
            times.append([watch.wall, watch.cpu])
    return {kind: times[1:] for kind, times in found.items()}


def steps_beside_saves(
    run: Path, preset: str, zero_stage: int, precision: str, repeat: int
) -> dict[str, list[list[float]]]:
    """Seconds (wall, CPU of all ranks) of `STEPS` steps without a save, and with one that begins before them."""
    training, memory = Training(preset, zero_stage, precision, bases=None), HostMemory()
    found: dict[str, list[list[float]]] = {"without": [], "with": []}
    for number in range(1, repeat + 2):  # the first touches the memory
        for kind, seconds in found.items():
            training.rank.barrier()
            began = time.perf_counter(), time.process_time()
            complete = kind == "without"
            if not complete:
                save = training.save(run, number, memory, asynchronous=True)
            for _ in range(STEPS):
                training.step()
                told = training.rank.sum(0.0, *(() if complete else save.progress()))[1:]
                complete = complete or save.advance(*told)
            if not complete:
                save.finish()
            wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
            seconds.append([wall, training.rank.sum(cpu)[0]])
    return {kind: seconds[1:] for kind, seconds in found.items()}


def anonymous() -> int:
    """Bytes of memory that this process has allocated and touched; mapped files are left out."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def write_one(run: Path, preset: str, zero_stage: int, precision: str) -> None:
    """Save a checkpoint after one step."""
    training = Training(preset, zero_stage, precision, bases=64)
    training.step()
    training.save(run, 1, HostMemory(), asynchronous=False).finish()


def resume(run: Path, preset: str, zero_stage: int, precision: str) -> dict[str, float]:
    """Load the checkpoint; bytes that this rank allocates meanwhile, and bytes of the moments that it keeps."""
    training = Training(preset, zero_stage, precision, bases=64)
    checkpoint = next((run / "checkpoints").glob("step-*"))
    before, most, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    load_checkpoint(training.engine, checkpoint, read_state(checkpoint))
    done.set()
    watcher.join()
    kept = sum(moment.nbytes for part in training.engine._parts() for moment in part.moments.values())
    return {"allocated": max(most[0], anonymous()) - before, "kept": kept}


def show_waits(options: argparse.Namespace) -> None:
    """Print how long each rank waits for a save."""
    with tempfile.TemporaryDirectory() as folder:
        engine = (options.preset, options.zero_stage, options.precision)
        found = in_ranks(options.ranks, partial(stalls, Path(folder), *engine, options.repeat))
    print("| rank | time | copy, ms | asynchronous, ms | / copy | synchronous, ms | / copy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rank, times in enumerate(found):
        for number, clock in enumerate(("wall clock", "CPU of the thread that trains")):
            copy, after, before = (1e3 * statistics.median(t[number] for t in times[kind]) for kind in times)
            cells = f"{copy:.1f} | {after:.1f} | {after / copy:.2f} | "
            # in a synchronous save the thread that trains waits for the one that writes
            cells += " | " if number else f"{before:.1f} | {before / copy:.1f}"
            print(f"| {rank} | {clock} | {cells} |")


def show_speed(options: argparse.Namespace) -> None:
    """Print the seconds of steps with and without a save."""
    with tempfile.TemporaryDirectory() as folder:
        engine = (options.preset, options.zero_stage, options.precision)
        times = in_ranks(options.ranks, partial(steps_beside_saves, Path(folder), *engine, options.repeat))[0]
    print(f"| time | {STEPS} steps, s | with a save, s | without / with |")
    print("| --- | --- | --- | --- |")
    for number, clock in enumerate(("wall clock", "CPU of both ranks")):
        without, beside = ([both[number] for both in times[kind]] for kind in ("without", "with"))
        ratio = statistics.median(before / after for before, after in zip(without, beside, strict=True))
        print(f"| {clock} | {statistics.median(without):.2f} | {statistics.median(beside):.2f} | {ratio:.3f} |")


def show_memory(options: argparse.Namespace) -> None:
    """Print what ranks allocate at resumes on other ranks and at other ZeRO stages."""
    print("| written by | read by | allocated by each rank, MB | moments kept, MB |")
    print("| --- | --- | --- | --- |")
    layouts = [(2, 1), (4, 3), (1, 2), (2, 0)]  # ranks and ZeRO stage
    for before, after in zip(layouts, layouts[1:] + layouts[:1], strict=True):
        with tempfile.TemporaryDirectory() as folder:
            in_ranks(before[0], partial(write_one, Path(folder), options.preset, before[1], options.precision))
            rows: list[dict[str, Any]] = in_ranks(
                after[0], partial(resume, Path(folder), options.preset, after[1], options.precision)
            )
        cells = [", ".join(f"{row[key] / MB:.0f}" for row in rows) for key in ("allocated", "kept")]
        who = [f"{ranks} ranks, ZeRO {stage}" for ranks, stage in (before, after)]
        print(f"| {' | '.join((*who, *cells))} |", flush=True)


PARTS = {"waits": show_waits, "speed": show_speed, "memory": show_memory}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="tables (default: all)")
    parser.add_argument("--ranks", type=int, default=2, help="of the first two tables (default: %(default)s)")
    parser.add_argument("--preset", default="small", help="whose model is trained (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=9, help="times that are measured (default: %(default)s)")
    parser.add_argument("--zero-stage", type=int, default=1, help="of the first two tables (default: %(default)s)")
    parser.add_argument("--precision", default="fp32", help="(default: %(default)s)")
    options = parser.parse_args()
    for part in options.only:
        PARTS[part](options)
        print(flush=True)


if __name__ == "__main__":
    main()

"""Run as a script: forks training ranks from a process that has imported everything, and injects faults into them.

A rank needs many seconds to import torch and DeepSpeed, and the tests start about fifty runs. Each line on stdin is a
job: {"arguments": [...], "world_size": W, "port": P, "log": FILE, "fault": {...}}. The server answers with the process
ids of the ranks, and after the end of all ranks with their exit codes. Like a launcher, it ends the other ranks when
one fails.

A fault patches or limits the rank that it names (or all ranks) from outside; the code under test has no hooks for it.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_GRACE_SECONDS = 6.0
Surroundings = Callable[[], contextlib.AbstractContextManager[Any]]


def nan_loss(steps: list[int]) -> None:
    """The loss is NaN in these optimizer steps."""
    from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine

    honest = TrainingEngine.forward

    def forward(self: Any, **inputs: Any) -> Any:
        output = honest(self, **inputs)
        if "labels" in inputs and self._engine.global_steps in steps:
            output.loss = output.loss * float("nan")
        return output

    TrainingEngine.forward = forward  # type: ignore[method-assign]


def kill_in_backward(step: int) -> None:
    """The rank is killed while it computes gradients."""
    from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine

    honest = TrainingEngine.backward

    def backward(self: Any, loss: Any) -> None:
        if self._engine.global_steps == step:
            os.kill(os.getpid(), signal.SIGKILL)
        honest(self, loss)

    TrainingEngine.backward = backward  # type: ignore[method-assign]


def stop_in_backward(step: int) -> None:
    """The rank is asked to stop, as by a scheduler, while it computes gradients."""
    from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine

    honest = TrainingEngine.backward

    def backward(self: Any, loss: Any) -> None:
        if self._engine.global_steps == step:
            os.kill(os.getpid(), signal.SIGTERM)
        honest(self, loss)

    TrainingEngine.backward = backward  # type: ignore[method-assign]


def freeze_in_backward(step: int) -> None:
    """The rank freezes while it computes gradients, as after SIGSTOP or on a lost machine."""
    from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine

    honest = TrainingEngine.backward

    def backward(self: Any, loss: Any) -> None:
        if self._engine.global_steps == step:
            time.sleep(4)  # until the watchdog has recorded where the rank is
            os.kill(os.getpid(), signal.SIGSTOP)
        honest(self, loss)

    TrainingEngine.backward = backward  # type: ignore[method-assign]


def watch_writes(log: str, kill_at: int) -> None:
    """Log every write, hash, rename and removal in checkpoints/; the rank is killed at number `kill_at` (from 1)."""
    import safetensors.torch

    from dnachunker.pretrain.checkpoints import saving

    written = 0

    def boundary(what: str) -> None:
        nonlocal written
        written += 1
        with open(log, "a") as file:
            file.write(what + "\n")
        if written == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in ("w", "x", "a")
        if (writes or event in ("os.rename", "os.mkdir", "shutil.rmtree")) and "/checkpoints/" in str(arguments[0]):
            boundary(f"{event} {Path(str(arguments[0])).name}")

    def around(save: Callable[..., None]) -> Callable[..., None]:
        def wrapped(content: Any, path: Any, *rest: Any, **named: Any) -> None:
            boundary(f"before {Path(path).name}")
            save(content, path, *rest, **named)
            with open(path, "r+b") as file:  # as if the rank were killed in the middle of the write
                half = os.path.getsize(path) // 2
                whole = file.read()
                file.truncate(half)
                boundary(f"within {Path(path).name}")
                file.seek(0)
                file.write(whole)

        return wrapped

    def hashed(path: Any) -> Any:
        boundary(f"hash of {path.name}")
        return digest_of(path)

    digest_of, saving.digest_of = saving.digest_of, hashed
    saving.save_file = around(safetensors.torch.save_file)
    sys.addaudithook(hook)


def slow_writes(seconds: float) -> None:
    """The disk takes so long for each file of tensors in a checkpoint."""
    from dnachunker.pretrain.checkpoints import saving

    honest = saving.save_file

    def save_file(*content: Any) -> None:
        time.sleep(seconds)
        honest(*content)

    saving.save_file = save_file


def spike(step: int, once: str) -> None:
    """The guards see a loss that is far too high at `step`, but only the first time this step is taken."""
    from dnachunker.pretrain.safety.guards import LossGuards

    honest = LossGuards.judge

    def judge(self: Any, loss: float, grad_norm: float, **named: Any) -> Any:
        marker = Path(f"{once}-{os.environ['RANK']}")
        if named["step"] == step and not marker.exists():
            marker.touch()
            loss += 100.0
        return honest(self, loss, grad_norm, **named)

    LossGuards.judge = judge  # type: ignore[method-assign]


def keep_ledger(path: str) -> None:
    """Write the windows that each step draws to a file."""
    from dnachunker.pretrain.data.training_data import TrainingData

    honest = TrainingData.draw

    def draw(self: Any) -> Any:
        step = self._next_step
        data = honest(self)
        with open(f"{path}-{os.environ['RANK']}", "a") as file:
            file.write(json.dumps([step, self.locate(data.windows)]) + "\n")
        return data

    TrainingData.draw = draw  # type: ignore[method-assign]


def small_files(limit: int) -> None:
    """No file may grow beyond `limit` bytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def load_here() -> None:
    """No fault: an export is compared in its own process, which spares the imports of a fresh one."""
    from dnachunker.pretrain.export import export
    from dnachunker.pretrain.export.fresh_load import compare

    export._load_elsewhere = lambda folder, probe: compare(str(folder), str(probe))


FAULTS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        nan_loss, kill_in_backward, stop_in_backward, freeze_in_backward, watch_writes, slow_writes, spike,
        keep_ledger, small_files, load_here,
    )
}  # fmt: skip


def be_rank(job: dict[str, Any], rank: int, surroundings: Surroundings) -> None:
    """Become one rank of the job; called in a forked child, and does not return."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["world_size"]), LOCAL_SIZE=str(job["world_size"]),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job["port"]), **job.get("environment", {}),
    )  # fmt: skip
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # stdin is the server's list of jobs: a library that asks a question would read it, or wait
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    fault = dict(job.get("fault") or {})
    if fault and fault.pop("rank") in (rank, "all"):
        FAULTS[fault.pop("kind")](**fault)
    from dnachunker.cli import main

    with surroundings():
        code = main(job["arguments"])
    os._exit(code)


def serve(job: dict[str, Any], surroundings: Surroundings) -> None:
    """Start the ranks of a job; answer with their process ids, then with their exit codes."""
    ranks: dict[int, int] = {}
    for rank in range(job["world_size"]):
        if (pid := os.fork()) == 0:
            be_rank(job, rank, surroundings)
        ranks[pid] = rank
    print(json.dumps(list(ranks)), flush=True)
    codes: dict[int, int] = {}
    deadline = None
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
            deadline = deadline or time.monotonic() + _GRACE_SECONDS
        elif deadline and time.monotonic() > deadline:
            for left in ranks:
                os.kill(left, signal.SIGKILL)
        time.sleep(0.02)
    print(json.dumps([codes[rank] for rank in sorted(codes)]), flush=True)


def serve_all(accelerator: str, surroundings: Surroundings = contextlib.nullcontext) -> None:
    """Serve until stdin ends.

    Args:
        accelerator: that DeepSpeed trains on, `cpu` or `cuda`.
        surroundings: what each rank runs in.
    """
    os.environ["DS_ACCELERATOR"] = accelerator
    os.environ["OMP_NUM_THREADS"] = "1"
    answers = os.dup(1)
    os.dup2(2, 1)  # imports may print to stdout, which is only for answers
    for name in ("dnachunker.pretrain.run", "dnachunker.pretrain.trainer"):
        importlib.import_module(name)
    importlib.import_module("torch._inductor.compile_fx")  # which DeepSpeed imports with every engine, in seconds

    os.dup2(answers, 1)
    print("ready", flush=True)
    for line in sys.stdin:
        serve(json.loads(line), surroundings)


if __name__ == "__main__":
    serve_all("cpu")

"""Run as a script: ranks load an epoch, are killed at random moments, and continue with another world size.

    python interrupted_loading.py CORPUS WORKERS KILLS SEED STEPS

Prints the ledger, that is, what every step delivered. It is a process of its own because it forks ranks, which is safe
only in a process without threads.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from loader_ledger import curriculum, ledger_lines, loader

from dnachunker.dataprep.corpus.index import Corpus

FINE = {"seq_len": 96, "global_batch": 12}


def live(corpus: Corpus, ledger: Path, *, rank: int, world_size: int, first: int, end: int, workers: int) -> None:
    """Load steps, and write each finished step to the ledger with one system call."""
    data = loader(
        corpus, curriculum(corpus, **FINE), first_step=first, end_step=end, rank=rank, world_size=world_size,
        workers=workers, cached_blocks=3,
    )  # fmt: skip
    out = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for step in range(first, end):
        lines = ledger_lines(data, data.draw(), rank, world_size)
        os.write(out, (json.dumps([step, lines]) + "\n").encode())
        time.sleep(0.03)  # long enough that `main` can kill the ranks before the epoch ends, even on a busy machine
    data.close()


def finished_steps(ledger: Path) -> dict[int, dict[str, str]]:
    """The steps whose line in the ledger is complete."""
    text = ledger.read_text() if ledger.exists() else ""
    return dict(json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n"))


def wait_for_lines(ledger: Path, count: int, rank: int) -> None:
    """Wait until a rank has finished `count` steps or has ended. Its start may take long on a busy machine."""
    while count and not (ledger.exists() and ledger.read_bytes().count(b"\n") >= count):
        if os.waitid(os.P_PID, rank, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


def main(path: str, workers: int, kills: int, seed: int, steps: int) -> None:
    """Start groups of ranks until all steps are done; a step is done when every rank of a group has finished it."""
    corpus, chance = Corpus.open(path), random.Random(seed)
    done: list[dict[str, str]] = []
    sizes, resumed_at, killed = [], [], 0
    with tempfile.TemporaryDirectory() as scratch:
        while len(done) < steps:
            world_size = chance.choice([1, 2])
            ledgers = [Path(scratch, f"rank{rank}") for rank in range(world_size)]
            children = []
            for rank, ledger in enumerate(ledgers):
                ledger.unlink(missing_ok=True)
                child = os.fork()
                if child == 0:
                    live(corpus, ledger, rank=rank, world_size=world_size, first=len(done), end=steps, workers=workers)
                    os._exit(0)
                children.append(child)
            if killed < kills:
                wait_for_lines(ledgers[0], chance.randrange(8), children[0])
                time.sleep(chance.uniform(0.0, 0.01))
                for child in children:
                    os.kill(child, signal.SIGKILL)
                killed += 1
            for child in children:
                os.waitpid(child, 0)
            lives = [finished_steps(ledger) for ledger in ledgers]
            while all(len(done) in life for life in lives):
                done.append({sample: line for life in lives for sample, line in life[len(done)].items()})
            sizes.append(world_size)
            resumed_at.append(len(done))
    print(json.dumps({"steps": done, "world_sizes": sizes, "resumed_at": resumed_at, "kills": killed}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

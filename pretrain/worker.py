"""The life of one rank: join the other ranks, train, and end with the right exit code."""

import contextlib
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dnachunker.foundations.absent_modules import absent
from dnachunker.foundations.failures import BadInputOnAllRanks, Failure, GuardTripped, Interrupted
from dnachunker.pretrain.safety.guards import RollBack
from dnachunker.pretrain.safety.out_of_memory import is_out_of_memory, out_of_memory_line
from dnachunker.pretrain.safety.signals import StopSignals
from dnachunker.pretrain.safety.watchdog import Watchdog

from .config import PretrainConfig

if TYPE_CHECKING:
    from dnachunker.pretrain.engine.ranks import Rank

# Set by the supervisor of the ranks (see cluster/backends/local.py).
EXIT_FOLDER_VARIABLE = "DNACHUNKER_EXIT_FOLDER"  # where each rank writes its exit code
SUPERVISOR_VARIABLE = "DNACHUNKER_SUPERVISOR"  # process id of the supervisor
_PEER_REPORT_SECONDS = 3.0


def run_worker(config: PretrainConfig) -> NoReturn:
    """Train as the rank that the environment names; ends the process with the exit code."""
    signals = StopSignals()  # before the slow imports, so that a signal during start-up is not lost
    watchdog = Watchdog(
        Path(config.run), _rank(), int(os.environ.get("WORLD_SIZE", "1")), limit=config.guards.hang_seconds,
        supervisor=int(os.environ.get(SUPERVISOR_VARIABLE, "0")), orphaned=signals.request, leave=leave,
    )  # fmt: skip
    try:
        _train(config, signals, watchdog)
        leave(0)
    except Failure as failure:
        if not failure.on_all_ranks or _rank() == 0:
            print(f"dnachunker: {failure}", file=sys.stderr, flush=True)
        leave(failure.code)
    except Exception as error:
        if is_out_of_memory(error):
            print(
                f"dnachunker: {out_of_memory_line(config.engine, _rank(), *watchdog.place)}",
                file=sys.stderr,
                flush=True,
            )
            leave(GuardTripped.code)
        if _another_rank_failed(signals):
            # Another rank failed, and the launcher ends this one: the other rank's report is the one that counts.
            line = f"dnachunker: rank {_rank()} stopped because another rank stopped ({type(error).__name__})"
            print(line, file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        leave(1)


def _train(config: PretrainConfig, signals: StopSignals, watchdog: Watchdog) -> None:
    with absent("mlflow"):  # DeepSpeed's autotuner would import it for a second
        from dnachunker.pretrain.engine.deepspeed_engine import start_process_group, stop_process_group
    from dnachunker.pretrain.engine.kernel_check import settle_backends
    from dnachunker.pretrain.engine.ranks import Rank
    from dnachunker.pretrain.planning.micro_batch import choose_micro_batch

    from .run import Run
    from .run_folder import discard_unstarted
    from .trainer import train

    rank = replace(Rank.from_environment(), context_size=config.engine.context_parallel)
    start_process_group(rank)
    try:
        config, chosen = choose_micro_batch(config, rank, _earlier_micro_batch(Path(config.run), rank))
        kernels = settle_backends(config.engine, config.model, rank)
        run = Run(config, rank, signals, watchdog, kernels)
    except BadInputOnAllRanks:
        watchdog.close()  # it keeps a file in the run folder
        rank.barrier()  # no rank writes into the run folder any more
        if rank.is_main:
            with contextlib.suppress(OSError):  # the refusal is what counts
                discard_unstarted(Path(config.run))
        stop_process_group(rank)  # waits for rank 0: the launcher ends all ranks when one leaves
        raise
    while True:
        run.journal.say(chosen)
        together = again = False
        try:
            train(run)
            together = True
        except RollBack:
            again = True
        except Interrupted:
            together = True  # agreed: every rank is here
            raise
        finally:
            if not again:
                signals.ignore()
            run.close()
            if together:  # wait until rank 0 has written everything: the launcher ends all ranks when one leaves
                stop_process_group(rank)
        if not again:
            break
        run = Run(config, rank, signals, watchdog, kernels)
    watchdog.close()


def _earlier_micro_batch(run: Path, rank: "Rank") -> int | None:
    """Windows in a pass when as many ranks last worked on this run; collective."""
    from dnachunker.pretrain.records.event_log import read_events

    began = [e for e in (read_events(run) if rank.is_main else []) if e["event"] in ("start", "resume")]
    numbers = [e.get("micro_batch") for e in began if e["world_size"] == rank.world_size]
    return rank.from_main(numbers[-1] if numbers else None)


def leave(code: int) -> NoReturn:
    """Tell the supervisor the exit code, and end this rank."""
    folder = os.environ.get(EXIT_FOLDER_VARIABLE)
    if folder:
        Path(folder, f"rank-{_rank()}").write_text(str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed and flushed. Freeing the objects of torch and DeepSpeed would take seconds, and after a
    # failure would hang: other ranks wait in a collective until this process is gone.
    os._exit(code)


def _another_rank_failed(signals: StopSignals) -> bool:
    """Whether another rank's failure caused this rank's error. Waits a little: a collective fails before the report."""
    folder = os.environ.get(EXIT_FOLDER_VARIABLE)
    deadline = time.monotonic() + _PEER_REPORT_SECONDS
    while folder and not signals.received and time.monotonic() < deadline:
        if any(path.name != f"rank-{_rank()}" for path in Path(folder).glob("rank-*")):
            return True
        time.sleep(0.1)
    return signals.received is not None


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))

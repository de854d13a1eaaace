"""The life of one rank: join the others, train, and end with the right exit code."""

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from failures import Failure, Interrupted

from .config import PretrainConfig
from .guards import StopSignals

# Set by whoever supervises the ranks and wants to know the exit code each one means (see cluster/local.py).
EXIT_FOLDER_VARIABLE = "DNACHUNKER_EXIT_FOLDER"


def run_worker(config: PretrainConfig) -> NoReturn:
    """Train as the rank the environment names; ends the process with the exit code."""
    signals = StopSignals()  # before the slow imports, so that a signal during start-up is not lost
    try:
        _train(config, signals)
        _leave(signals, 0)
    except Failure as failure:
        # on an agreed stop every rank is here; one rank speaks for all
        if not isinstance(failure, Interrupted) or _rank() == 0:
            print(f"dnachunker: {failure}", file=sys.stderr, flush=True)
        _leave(signals, failure.code)
    except Exception as error:
        if signals.received:
            # A peer failed and the launcher is taking this rank down: its report is the one that counts.
            reason = f"{type(error).__name__} after {signals.received}"
            line = f"dnachunker: rank {_rank()} stopped because another rank did ({reason})"
            print(line, file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        _leave(signals, 1)


def _train(config: PretrainConfig, signals: StopSignals) -> None:
    from .assembly import Run
    from .distributed import Rank
    from .engine import start_process_group, stop_process_group
    from .trainer import train

    rank = Rank.from_environment()
    start_process_group(rank)
    run = Run(config, rank, signals)
    try:
        train(run)
    finally:
        run.close()
        signals.ignore()
    stop_process_group(rank)


def _leave(signals: StopSignals, code: int) -> NoReturn:
    signals.ignore()
    folder = os.environ.get(EXIT_FOLDER_VARIABLE)
    if folder:
        Path(folder, f"rank-{_rank()}").write_text(str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed and flushed. Freeing torch's and DeepSpeed's world piece by piece would take seconds, and
    # after a failure would hang on peers that wait in a collective until this process is gone.
    os._exit(code)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))

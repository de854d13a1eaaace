"""The last line of a SLURM job's script: decides whether to requeue the job, submit it without a bad node, or stop.

A saved run (exit code 3) is requeued; a crashed run is requeued within the budget of `restart.attempts`. A rank that
wrote no exit code has vanished, and its node is suspected. A node that was suspected in `exclude_after` crashes is
avoided. SLURM cannot change the allowed nodes of a running job, so the run then continues as a new job with --exclude.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnachunker.cluster.restart import Attempt, Restarts
from dnachunker.cluster.topology import job_exit_code

from .slurm import JobPlan, submit_job

_HISTORY = "crashes.json"


@dataclass(frozen=True)
class Crash:
    """One crash of the run.

    Attributes:
        when: seconds since 1970, by the clock of the node that wrote the record.
        suspects: nodes whose ranks vanished.
    """

    when: float
    suspects: tuple[str, ...]


def read_exits(folder: Path, returned: int) -> tuple[int, tuple[str, ...]]:
    """The exit code of an attempt, and the nodes to suspect.

    Args:
        folder: for each rank R, holds `node-R` (the name of its node) and, if the rank ended by itself, `rank-R` (its
            exit code).
        returned: exit code of srun.

    Returns:
        The exit code that `job_exit_code` chooses, and the nodes whose ranks vanished. If ranks vanished on all nodes,
        no node is suspected.
    """
    nodes = {path.name.removeprefix("node-"): path.read_text().strip() for path in folder.glob("node-*")}
    meant = {path.name.removeprefix("rank-"): int(path.read_text()) for path in folder.glob("rank-*")}
    vanished = {node for rank, node in nodes.items() if rank not in meant}
    code = job_exit_code(list(meant.values()) + ([1] if vanished or not meant else [])) if returned else 0
    survived = {node for rank, node in nodes.items() if rank in meant}
    return code, tuple(sorted(vanished - survived)) if survived else ()


def next_step(
    code: int, suspects: Sequence[str], history: Sequence[Crash], plan: JobPlan, now: float
) -> tuple[float | None, list[str], list[Crash]]:
    """Decide what follows an attempt.

    Args:
        code: exit code of the attempt.
        suspects: nodes suspected in this attempt.
        history: earlier crashes.
        now: seconds since 1970.

    Returns:
        Seconds to wait before the next attempt (None: no attempt follows), the nodes that it must avoid, and the
        history to keep.
    """
    restarts = Restarts(plan.restart, clock=lambda: now, crashes=[crash.when for crash in history])
    crashed = code not in (0, 2, 3, 4)
    kept = [*history, Crash(now, tuple(suspects))] if crashed else list(history)
    kept = [crash for crash in kept if now - crash.when < plan.restart.window_hours * 3600]
    counted = Counter(node for crash in kept for node in crash.suspects)
    avoid = sorted(node for node, times in counted.items() if times >= plan.exclude_after)
    return restarts.pause_after(Attempt(code)), avoid, kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Decide what follows and do it; returns the exit code of the batch script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=int, required=True, help="exit code of srun")
    parser.add_argument("--job", required=True, help="id of this job")
    parser.add_argument("--exits", type=Path, required=True, help="folder with the exit codes of the ranks")
    parser.add_argument("plan", type=Path, help="JSON file with the job's plan")
    parsed = parser.parse_args(arguments)
    plan = JobPlan.model_validate_json(parsed.plan.read_text())
    code, suspects = read_exits(parsed.exits, parsed.code)
    notes = parsed.exits.parent / _HISTORY
    history = [Crash(c["when"], tuple(c["suspects"])) for c in json.loads(notes.read_text())] if notes.exists() else []
    pause, avoid, kept = next_step(code, suspects, history, plan, time.time())
    notes.write_text(json.dumps([{"when": crash.when, "suspects": crash.suspects} for crash in kept]) + "\n")
    _say(f"ranks ended with {code} (srun: {parsed.code})" + (f"; suspect: {', '.join(suspects)}" if suspects else ""))
    if pause is None:
        return code
    if _state(parsed.job) not in ("RUNNING", "COMPLETING"):
        _say("the job is already cancelled or requeued")
        return code
    if code != 3:
        time.sleep(pause)
    # even if an earlier job excluded the node already: an --exclude ends with its job
    if any(node in suspects for node in avoid):
        argv = [plan.submit[0], f"--exclude={','.join(avoid)}", *plan.submit[1:]]
        _say(f"continuing as job {submit_job(argv, _without_this_job(os.environ))} without {', '.join(avoid)}")
        return code
    subprocess.run(["scontrol", "requeue", parsed.job], check=True)
    return code


def _without_this_job(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for another job: sbatch passes its own on, and the new job must not use this job's rendezvous."""
    of_this_job = ("SLURM_", "MASTER_", "DNACHUNKER_")
    return {name: v for name, v in environment.items() if name == "SLURM_CONF" or not name.startswith(of_this_job)}


def _state(job: str) -> str:
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True).stdout
    fields = dict(field.partition("=")[::2] for field in shown.split())
    return fields.get("JobState", "")


def _say(line: str) -> None:
    print(f"dnachunker: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""What the rows of the matrix share: a way to train, the CPU runs to compare with, and the table that is printed."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training_ranks import Job, Ranks

from dnachunker.pretrain.records.event_log import read_events

EXACT = 1e-5  # of a loss in fp32: the order of sums differs
_RECORD = "export.json"


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        work: settings that the losses depend on; the CPU run that is compared with has them too.
        how: further settings of the run on GPUs.
        ranks: world sizes one after the other; the run stops and continues between them.
        reference: ranks of the CPU run.
        tolerance: of each step's loss.
        steps: of the run; settings of `work` must say so if they are not 4.
    """

    name: str
    work: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    ranks: tuple[int, ...] = (2, 2)
    reference: int = 1
    tolerance: float = EXACT
    steps: int = 4

    def __str__(self) -> str:
        return f"{self.name} {'-'.join(map(str, self.ranks))} ranks".replace(",", "").replace(" ", "-")


@dataclass
class Row:
    """What a way to train gave."""

    case: Case
    losses: dict[int, float]
    difference: float
    export: float
    seconds: float


@dataclass
class Table:
    """What all ways gave, printed at the end."""

    rows: list[Row] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def lines(self) -> list[str]:
        """Head, rows and the time of the whole."""
        head = f"{'on null GPUs':36}{'ranks':>9}{'last loss':>12}{'from the CPU run':>18}{'export':>10}{'s':>7}"
        return [
            head,
            *(
                f"{row.case.name:36}{', '.join(map(str, row.case.ranks)):>9}{row.losses[row.case.steps]:>12.6f}"
                f"{row.difference:>18.1e}{row.export:>10.1e}{row.seconds:>7.1f}"
                for row in self.rows
            ),
            f"{len(self.rows)} rows in {time.monotonic() - self.began:.0f} s: each trained, saved and exported, and "
            "stopped and resumed where it has several numbers of ranks",
        ]


class Matrix:
    """Starts runs on null GPUs and on CPUs, and compares them."""

    def __init__(self, gpus: Ranks, cpus: Ranks, table: Table, folder: Path) -> None:
        """
        Args:
            folder: of the CPU runs, each of which is made once.
        """
        self.gpus = gpus
        self._cpus, self._table, self._folder = cpus, table, folder
        self._found: dict[Any, dict[int, float]] = {}
        self._began = time.monotonic()

    def losses_of_cpu(
        self, work: tuple[str, ...] = (), ranks: int = 1, fault: dict[str, Any] | None = None
    ) -> dict[int, float]:
        """By step, the losses of a run on CPU ranks."""
        key = work, ranks, str(fault)
        if key not in self._found:
            run = self._folder / f"cpu-{len(self._found)}"
            ended(self._cpus.start(run, *work, world_size=ranks, fault=fault), [0] * ranks)
            self._found[key] = losses(run)
        return self._found[key]

    def start(self) -> None:
        """Begin to count the seconds of the next row."""
        self._began = time.monotonic()

    def add(self, case: Case, run: Path, wanted: dict[int, float], *, without: int | None = None) -> None:
        """Export a finished run where there is no GPU, add its row to the table, and compare its losses.

        Args:
            without: a step whose loss is not a number.
        """
        got = losses(run)
        difference = max(abs(got[step] - wanted[step]) for step in range(1, case.steps + 1) if step != without)
        folder = run.with_name(f"{run.name}-exported")
        ended(self._cpus.export(run, folder), [0])
        moved = float(json.loads((folder / _RECORD).read_text())["max_abs_diff"])
        self._table.rows.append(Row(case, got, difference, moved, time.monotonic() - self._began))
        assert difference < case.tolerance, (got, wanted)


def ended(job: Job, codes: list[int]) -> str:
    """Wait for the end of a job with these exit codes; returns what its ranks printed."""
    got, printed = job.end(), job.printed()
    assert got == codes, f"exit codes {got}\n{printed}"
    return printed


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in a run's log."""
    return [event for event in read_events(run) if event["event"] == kind]


def losses(run: Path) -> dict[int, float]:
    """By steps done, the loss of each step."""
    return {event["steps_done"]: event["loss"] for event in events(run, "step")}

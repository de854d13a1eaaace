"""Every way to train on GPUs, from a start over a stop and a resume to an export, gives the losses of CPU ranks."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from training_ranks import Job, Ranks

from dnachunker.pretrain.records.event_log import read_events

pytestmark = [pytest.mark.nullgpu, pytest.mark.timeout(600)]

STEPS, STOP_AFTER = 4, 2
RECORD = "export.json"
_SHORT = "data.curriculum=[{from_step: 2, seq_len: 96, global_batch: 4}]"


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        work: settings that the losses depend on; the CPU run that is compared with has them too.
        how: further settings of the run on GPUs.
        ranks: that start the run.
        resumed: ranks that continue it.
        reference: ranks of the CPU run.
        tolerance: of each step's loss.
    """

    name: str
    work: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    ranks: int = 2
    resumed: int = 2
    reference: int = 1
    tolerance: float = 1e-5


def zero(stage: int, ranks: int = 2, *how: str, name: str = "", resumed: int | None = None, **rest: Any) -> Case:
    how = (f"engine.zero_stage={stage}", *how)
    return Case(f"ZeRO {stage}{name}", how=how, ranks=ranks, resumed=resumed or ranks, **rest)


_BF16: dict[str, Any] = {"work": ("engine.precision=bf16",), "tolerance": 0.02}
CASES = (
    *(zero(stage, ranks) for ranks in (1, 2) for stage in range(4)),
    zero(1, 4),
    zero(1, 2, name=", 2 become 1", resumed=1),
    zero(3, 2, name=", 2 become 1", resumed=1),
    zero(1, 2, "engine.offload_optimizer=true", name=", offload"),
    zero(3, 2, "engine.offload_optimizer=true", name=", offload"),
    zero(2, 2, "engine.micro_batch=1", name=", accumulation"),
    zero(1, 2, "engine.micro_batch=auto", name=", micro-batch auto"),
    zero(1, 2, "engine.activation_checkpointing=true", name=", activation checkpointing"),
    *(zero(stage, 2, name=", bf16", **_BF16) for stage in (0, 1, 2, 3)),
    Case("foresee_chunks", ("engine.foresee_chunks=true",), reference=2),
    Case("causal", ("model.causal=true",)),
    Case("strand symmetry", ("model.strand_symmetry=true",)),
    Case("k-mers", ("tokenization.kind=kmer",)),
    Case("curriculum", (_SHORT,)),
)


@dataclass
class Row:
    case: Case
    losses: dict[int, float]
    difference: float
    export: float
    seconds: float


@dataclass
class Table:
    """What the cases gave, printed at the end."""

    rows: list[Row] = field(default_factory=list)

    def lines(self) -> list[str]:
        head = f"{'on null GPUs':32}{'ranks':>7}{'loss at step 4':>16}{'from the CPU run':>18}{'export':>10}{'s':>7}"
        return [head] + [
            f"{row.case.name:32}{f'{row.case.ranks}, {row.case.resumed}':>7}{row.losses[STEPS]:>16.6f}"
            f"{row.difference:>18.1e}{row.export:>10.1e}{row.seconds:>7.1f}"
            for row in self.rows
        ]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    found = Table()
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *found.lines(), sep="\n")


class References:
    """Losses of CPU runs, each made once."""

    def __init__(self, cpus: Ranks, folder: Path) -> None:
        self._cpus, self._folder = cpus, folder
        self._found: dict[Any, dict[int, float]] = {}

    def losses(self, work: tuple[str, ...], ranks: int, fault: dict[str, Any] | None = None) -> dict[int, float]:
        key = work, ranks, str(fault)
        if key not in self._found:
            run = self._folder / f"cpu-{len(self._found)}"
            ended(self._cpus.start(run, *work, world_size=ranks, fault=fault), [0] * ranks)
            self._found[key] = losses(run)
        return self._found[key]


@pytest.fixture(scope="module")
def references(cpus: Ranks, tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(cpus, tmp_path_factory.mktemp("references"))


def ended(job: Job, codes: list[int]) -> None:
    got = job.end()
    assert got == codes, f"exit codes {got}\n{job.printed()}"


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == kind]


def losses(run: Path) -> dict[int, float]:
    return {event["steps_done"]: event["loss"] for event in events(run, "step")}


def exported(cpus: Ranks, run: Path, folder: Path) -> float:
    """How far the logits of the export, made where there is no GPU, are from those of the training model."""
    ended(cpus.export(run, folder), [0])
    return float(json.loads((folder / RECORD).read_text())["max_abs_diff"])


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.name} {case.ranks} ranks".replace(",", "").replace(" ", "-")
)
def test_a_stopped_and_resumed_run_has_the_losses_of_the_cpu(
    gpus: Ranks, cpus: Ranks, references: References, table: Table, tmp_path: Path, case: Case
) -> None:
    wanted = references.losses(case.work, case.reference)
    began, run = time.monotonic(), tmp_path / "run"
    settings = (*case.work, *case.how)
    stop = {"kind": "stop_in_backward", "rank": case.ranks - 1, "step": STOP_AFTER - 1}
    ended(gpus.start(run, *settings, world_size=case.ranks, fault=stop), [3] * case.ranks)
    ended(gpus.start(run, *settings, world_size=case.resumed), [0] * case.resumed)
    assert events(run, "resume")[0]["steps_done"] == STOP_AFTER
    assert {event["device"] for kind in ("start", "resume") for event in events(run, kind)} == {"cuda:0"}
    got = losses(run)
    difference = max(abs(got[step] - wanted[step]) for step in range(1, STEPS + 1))
    moved = exported(cpus, run, tmp_path / "exported")
    table.rows.append(Row(case, got, difference, moved, time.monotonic() - began))
    assert difference < case.tolerance, (got, wanted)


def test_nan_on_one_rank_is_applied_by_none(
    gpus: Ranks, cpus: Ranks, references: References, table: Table, tmp_path: Path
) -> None:
    fault = {"kind": "nan_loss", "rank": 1, "steps": [1]}
    wanted = references.losses((), 2, fault)
    for stage in (0, 1, 3):
        began, run = time.monotonic(), tmp_path / f"run-{stage}"
        ended(gpus.start(run, f"engine.zero_stage={stage}", fault=fault), [0, 0])
        assert [event["step"] for event in events(run, "guard")] == [1]
        got = losses(run)
        difference = max(abs(got[step] - wanted[step]) for step in (1, 3, 4))
        moved = exported(cpus, run, tmp_path / f"exported-{stage}")
        table.rows.append(Row(zero(stage, name=", NaN on rank 1"), got, difference, moved, time.monotonic() - began))
        assert difference < 1e-5, (got, wanted)


def test_zero_1_equals_zero_2(table: Table) -> None:
    by_stage = {row.case.how[0][-1]: row.losses for row in table.rows if row.case in (zero(1), zero(2))}
    if len(by_stage) < 2:
        pytest.skip("needs the cases of ZeRO 1 and 2 on 2 ranks")
    assert by_stage["1"] == by_stage["2"]

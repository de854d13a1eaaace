"""Every way to train on GPUs, from a start over stops and resumes to an export, gives the losses of CPU ranks."""

from pathlib import Path
from typing import Any

import pytest
from matrix import Case, Matrix, Table, ended, events

pytestmark = [pytest.mark.nullgpu, pytest.mark.timeout(1200)]  # seconds, for busy machines

_SHORT = "data.curriculum=[{from_step: 2, seq_len: 48, global_batch: 4}]"


def zero(stage: int, *how: str, name: str = "", **rest: Any) -> Case:
    return Case(f"ZeRO {stage}{name}", how=(f"engine.zero_stage={stage}", *how), **rest)


_BF16: dict[str, Any] = {"work": ("engine.precision=bf16",), "tolerance": 0.002}
_AUTOCAST: dict[str, Any] = {"work": ("engine.precision=bf16-autocast",), "tolerance": 0.002}
# Triton's interpreter takes about half a second for a position, and longer to check the kernels before the first step
_SMALLEST: dict[str, Any] = {"work": ("steps=2", "data.global_batch=2", "data.seq_len=12"), "steps": 2}
_PATIENT = "guards.hang_seconds=900"
CASES = (
    *(zero(stage, ranks=(ranks, ranks)) for ranks in (1, 2, 4) for stage in range(4)),
    zero(1, ranks=(2, 4, 1)),
    zero(3, ranks=(2, 1)),
    zero(1, "engine.offload_optimizer=true", name=", offload"),
    zero(3, "engine.offload_optimizer=true", name=", offload"),
    zero(2, "engine.micro_batch=1", name=", accumulation"),
    zero(1, "engine.micro_batch=auto", name=", micro-batch auto"),
    zero(1, "engine.activation_checkpointing=true", name=", activation checkpointing"),
    *(zero(stage, name=", bf16", **_BF16) for stage in (0, 1, 3)),
    *(zero(stage, name=", bf16 autocast", **_AUTOCAST) for stage in (0, 1, 3)),
    zero(1, "engine.scan_backend=triton", _PATIENT, name=", Triton's kernels interpreted", **_SMALLEST),
    Case("foresee_chunks", ("engine.foresee_chunks=true",), reference=2),
    Case("causal", ("model.causal=true",)),
    Case("strand symmetry", ("model.strand_symmetry=true",)),
    Case("k-mers", ("tokenization.kind=kmer",)),
    Case("curriculum", (_SHORT,)),
    *(
        Case(f"{ranks} ranks share windows", how=(f"engine.context_parallel={ranks}",), ranks=(ranks, ranks))
        for ranks in (2, 4)
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_stopped_and_resumed_run_has_the_losses_of_the_cpu(matrix: Matrix, tmp_path: Path, case: Case) -> None:
    """The run stops because the last rank gets SIGTERM while it computes gradients; every rank then leaves with 3."""
    wanted = matrix.losses_of_cpu(case.work, case.reference)
    matrix.start()
    run, settings = tmp_path / "run", (*case.work, *case.how)
    stops = [case.steps * number // len(case.ranks) for number in range(1, len(case.ranks))]
    for ranks, after in zip(case.ranks, stops, strict=False):
        stop = {"kind": "stop_in_backward", "rank": ranks - 1, "step": after - 1}
        ended(matrix.gpus.start(run, *settings, world_size=ranks, fault=stop), [3] * ranks)
    last = case.ranks[-1]
    printed = ended(matrix.gpus.start(run, *settings, world_size=last), [0] * last)
    assert [event["steps_done"] for event in events(run, "resume")] == stops
    assert {event["device"] for kind in ("start", "resume") for event in events(run, kind)} == {"cuda:0"}
    assert not complaints(printed), printed
    matrix.add(case, run, wanted)


def complaints(printed: str) -> list[str]:
    """Lines of libraries that a user can do nothing about."""
    signs = ("compatibility check failed", "Warning", "WARNING", "[W", "barrier")
    return [line for line in printed.splitlines() if any(sign in line for sign in signs)]


def test_zero_1_equals_zero_2(table: Table) -> None:
    by_stage = {row.case.how[0][-1]: row.losses for row in table.rows if row.case in (zero(1), zero(2))}
    if len(by_stage) < 2:
        pytest.skip("needs the cases of ZeRO 1 and 2 on 2 ranks")
    assert by_stage["1"] == by_stage["2"]

"""The time model of `dnachunker plan`: its parts, compared with known and measured values."""

import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.planning.collectives import all_gather_seconds, all_reduce_seconds
from dnachunker.pretrain.planning.hardware import HARDWARE
from dnachunker.pretrain.planning.memory import checkpoint_bytes, rank_memory
from dnachunker.pretrain.planning.step_time import (
    Assumptions,
    Workload,
    best_checkpoint_steps,
    collective_bytes,
    expected_maximum,
    operations_of_pass,
    step_time,
)

WORK = Workload(
    parameters=171_585_280, value_bytes=2, flops=1e14, windows=8, passes=4, operations=3000, zero_stage=1,
    bucket_values=500_000_000, overlap=False, checkpoint_bytes=2.4e9, checkpoint_steps=1000,
)  # fmt: skip


def test_collectives_send_what_zero_says() -> None:
    once = WORK.parameters * 2 * 7 / 8
    for stage, times in ((0, 2), (1, 3), (2, 9), (3, 12)):
        assert collective_bytes(replace(WORK, zero_stage=stage), 8) == pytest.approx(times * once)
    assert collective_bytes(WORK, 1) == 0


def test_collectives_take_the_time_of_the_slowest_link() -> None:
    h100 = HARDWARE["h100"]
    size = 1e12  # latency counts for nothing
    for ranks, per_node, rate in ((8, 8, 450e9), (512, 8, 400e9), (16, 4, 200e9), (16, 1, 50e9)):
        sent = 2 * size * (ranks - 1) / ranks
        assert all_reduce_seconds(size, h100, ranks, per_node) == pytest.approx(sent / rate, rel=0.01)
        assert all_gather_seconds(size, h100, ranks, per_node) == pytest.approx(sent / 2 / rate, rel=0.01)
        assert all_gather_seconds(size, h100, ranks, per_node, 0.5) == pytest.approx(sent / rate, rel=0.01)
    assert all_reduce_seconds(size, h100, 1, 8) == all_gather_seconds(size, h100, 1, 8) == 0


def test_a_small_all_reduce_climbs_a_tree_and_takes_no_ring_of_all_ranks() -> None:
    h100 = HARDWARE["h100"]
    small = [all_reduce_seconds(8, h100, ranks, 8) for ranks in (64, 512, 4096)]
    assert small[2] < 2 * small[0], "the height of the tree counts"
    assert all_gather_seconds(8, h100, 4096, 8) > 30 * all_gather_seconds(8, h100, 64, 8), "a gather is a ring"


def collectives(**changes: Any) -> float:
    return step_time(replace(WORK, **changes), HARDWARE["h100"], "bf16", 512, 8, Assumptions()).collectives


def test_zero_1_reduces_once_a_step_and_zero_2_in_every_pass() -> None:
    assert collectives(zero_stage=1, passes=4) == pytest.approx(collectives(zero_stage=1, passes=1))
    assert collectives(zero_stage=2, passes=1) == pytest.approx(collectives(zero_stage=1, passes=1))
    reduction = collectives(zero_stage=2, passes=2) - collectives(zero_stage=2, passes=1)
    assert collectives(zero_stage=2, passes=4) == pytest.approx(collectives(zero_stage=1) + 3 * reduction)


def test_only_buckets_that_others_follow_overlap_with_the_backward_pass() -> None:
    whole = collectives()
    assert collectives(overlap=True) == whole, "one bucket holds all gradients, and is full when the pass ends"
    small = {"bucket_values": WORK.parameters // 8 + 1}
    assert collectives(**small) > whole, "each bucket has its own latency"
    hidden = collectives(**small) - collectives(**small, overlap=True)
    once = 8 * all_reduce_seconds(2 * WORK.parameters / 8, HARDWARE["h100"], 512, 8, Assumptions().link_share)
    assert hidden == pytest.approx(7 / 8 * once, rel=1e-3)
    assert collectives(zero_stage=0, overlap=True) == collectives(zero_stage=0), "DeepSpeed reduces after the pass"


def test_a_pass_that_is_too_small_waits_for_the_host() -> None:
    given = Assumptions(operation_seconds=5e-6)
    for passes in (1, 16, 64):
        step = step_time(replace(WORK, passes=passes), HARDWARE["h100"], "bf16", 8, 8, given)
        assert step.compute + step.host == pytest.approx(max(step.compute, passes * 3000 * 5e-6))
    assert step.host > 0
    assert step.stragglers == 0, "the host is as slow on every rank"


@pytest.mark.parametrize(
    ("mixer", "layers", "qk_norm"),
    [("bimamba", 1, False), ("bimamba", 4, True), ("conv", 2, False), ("transformer", 1, False)],
)
def test_the_operations_of_a_pass_are_about_those_that_torch_dispatches(mixer: str, layers: int, qk_norm: bool) -> None:
    sizes = {"width": 32, "num_heads": 2, "state_size": 4, "chunk_capacity": (0.9, 0.9), "label_capacity": 0.5}
    stages = {"encoder_layers": (layers, 1), "decoder_layers": (1, 1), "trunk_layers": 3 * layers, "mixer": mixer}
    torch.manual_seed(0)
    network = DNAChunkerConfig(**sizes, **stages, qk_norm=qk_norm)
    model, ids = DNAChunkerForMaskedLM(network), torch.randint(7, 11, (1, 64))
    with Dispatched() as dispatched:
        model(ids, labels=ids.where(ids == 7, -100)).loss.backward()
    assert operations_of_pass(network) == pytest.approx(dispatched.count, rel=0.2)


class Dispatched(TorchDispatchMode):
    """Counts operations that compute something; views and empty tensors start nothing on a GPU."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        self.count += not function.is_view and "empty" not in str(function)
        return function(*arguments, **(options or {}))


@pytest.mark.slow
def test_deepspeed_sends_what_the_plan_counts() -> None:
    """All-reduces count twice: a ring scatters the sum, then gathers it."""
    script = Path(__file__).parents[2] / "support" / "measured_traffic.py"
    done = subprocess.run(
        [sys.executable, str(script), "0", "1", "2"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{script.parents[2]}:{script.parent}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for stage, sent in enumerate(json.loads(done.stdout.splitlines()[-1])):
        planned = collective_bytes(replace(WORK, zero_stage=stage, passes=3), 2) / (
            WORK.parameters * WORK.value_bytes / 2
        )
        assert 2 * sent["all_reduce"] + sent["all_gather_into_tensor"] == pytest.approx(planned, rel=0.02), stage


def test_the_expected_maximum_is_that_of_normal_values() -> None:
    draw = random.Random(0)
    for ranks in (2, 8, 64):
        drawn = statistics.mean(max(draw.gauss(0, 1) for _ in range(ranks)) for _ in range(4000))
        assert expected_maximum(ranks) == pytest.approx(drawn, abs=0.05)
    assert expected_maximum(1) == 0


def test_a_lone_rank_that_never_fails_only_computes() -> None:
    given = Assumptions(utilisation=0.2, hours_between_failures=1e12, storage=1e15)
    step = step_time(replace(WORK, checkpoint_bytes=0), HARDWARE["h100"], "bf16", 1, 8, given)
    assert step.efficiency == pytest.approx(1)
    assert step.compute == pytest.approx(1e14 / (989e12 * 0.2))


def test_efficiency_falls_with_ranks_and_every_cause_grows() -> None:
    steps = [step_time(WORK, HARDWARE["h100"], "bf16", ranks, 8, Assumptions()) for ranks in (8, 64, 512, 4096)]
    for before, after in zip(steps, steps[1:], strict=False):
        assert after.efficiency < before.efficiency
        assert after.stragglers > before.stragglers
        assert after.collectives >= before.collectives
        assert after.failures > before.failures
    assert all(step.compute == steps[0].compute for step in steps), "weak scaling: a rank's work stays"


def test_the_interval_between_checkpoints_is_the_best() -> None:
    given = Assumptions(hours_between_failures=5000)

    def total(steps: int) -> float:
        return step_time(replace(WORK, checkpoint_steps=steps), HARDWARE["h100"], "bf16", 1024, 8, given).total

    best = best_checkpoint_steps(WORK, step_time(WORK, HARDWARE["h100"], "bf16", 1024, 8, given), 1024, given)
    assert total(best) < min(total(best // 2), total(best * 2))


@pytest.mark.slow
def test_a_checkpoint_has_the_planned_size(tmp_path: Path, sample_corpus: Path, dnachunker: Any) -> None:
    from dnachunker.model.cost import parameters

    run = tmp_path / "run"
    sizes = ["model.width=64", "model.num_heads=2", "model.trunk_layers=16"]
    done = dnachunker(
        "pretrain", "--config", "tiny", "--corpus", sample_corpus, "--run", run, "--processes", "1", "steps=1", *sizes,
        "evaluation.windows=2", "tracking.enabled=false", "data.seq_len=128",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    network = DNAChunkerConfig(width=64, num_heads=2, trunk_layers=16, encoder_layers=(1, 1), decoder_layers=(1, 1))
    written = sum(path.stat().st_size for path in next((run / "checkpoints").glob("step-*")).rglob("*"))
    assert checkpoint_bytes(sum(parameters(network).values())) == pytest.approx(written, rel=0.1)


def measured(ranks: int, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What `measured_memory.py` finds of each rank."""
    script = Path(__file__).parents[2] / "support" / "measured_memory.py"
    # freed tensors go back to the system at once, and oneDNN keeps no compiled kernels with their scratch memory, so
    # that resident memory is what the rank uses
    environment = {
        **os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",
        "PYTHONPATH": str(script.parents[2]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script), str(ranks), json.dumps(values)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


TRUNK = {"width": 256, "num_heads": 8, "trunk_layers": 24, "encoder_layers": [1, 1], "decoder_layers": [1, 1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "batch", "length", "engine"),
    [
        (1, 1, 2048, {"zero_stage": 0, "precision": "fp32"}),
        (2, 4, 1024, {"zero_stage": 1, "precision": "fp32"}),
        (2, 4, 1024, {"zero_stage": 2, "precision": "bf16", "micro_batch": 1, "activation_checkpointing": True}),
        (2, 4, 1024, {"zero_stage": 1, "precision": "bf16", "micro_batch": 1}),
        (2, 2, 1024, {"zero_stage": 3, "precision": "fp32"}),
    ],
)
def test_the_planned_memory_is_what_a_rank_takes(ranks: int, batch: int, length: int, engine: dict[str, Any]) -> None:
    values = {
        "model": TRUNK, "data": {"corpus": "c", "global_batch": batch, "seq_len": length},
        "engine": engine,
    }  # fmt: skip
    micro_batch = engine.get("micro_batch", batch // ranks)
    for found in measured(ranks, values):
        planned = rank_memory(
            DNAChunkerConfig(**TRUNK), ranks=ranks, zero_stage=engine["zero_stage"], precision=engine["precision"],
            bases=micro_batch * length, chunks_per_base=found["chunks"], passes=batch // ranks // micro_batch,
            checkpointing=engine.get("activation_checkpointing", False),
        )  # fmt: skip
        assert planned.peak == pytest.approx(found["bytes"], rel=0.15), planned


@pytest.mark.slow
def test_the_planned_memory_of_a_window_whose_layers_run_in_blocks() -> None:
    network = {"width": 64, "num_heads": 2, "trunk_layers": 1, "encoder_layers": [1, 1], "decoder_layers": [1, 1]}
    peaks = {}
    for block in (1024, 0):
        engine = {"zero_stage": 0, "activation_checkpointing": True, "layer_block": block}
        data = {"corpus": "c", "global_batch": 1, "seq_len": 16_384}
        (found,) = measured(1, {"model": network, "data": data, "engine": engine})
        peaks[block] = found["bytes"]
        planned = rank_memory(
            DNAChunkerConfig(**network), ranks=1, zero_stage=0, precision="fp32", bases=16_384, window=16_384,
            chunks_per_base=found["chunks"], checkpointing=True, layer_block=block,
        )  # fmt: skip
        assert planned.peak == pytest.approx(found["bytes"], rel=0.15), (block, planned)
    assert peaks[1024] < 0.7 * peaks[0]

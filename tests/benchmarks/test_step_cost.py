"""What a training step of the 172M model costs on a GPU, counted on fake tensors, does not rise."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import activation_bytes, repeated_flops_per_base
from dnachunker.pretrain.planning import step_time

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step_cost.py"
# Of a step of 65,536 bases: launches, GB, GiB at the peak, ms on an H100 with FlashAttention-3. Lower them when the
# count falls.
LIMITS = {"bf16": (1_500, 180.0, 26.7, 134.0), "bf16-autocast": (1_570, 204.0, 29.0, 142.8)}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("step_cost", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["step_cost"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_planned_memory_of_a_megabase_in_blocks_is_what_a_gpu_holds(tool: ModuleType) -> None:
    bases, block = 1 << 20, 65_536
    found = tool.step_cost(bases, window=bases, checkpointing=True, layer_block=block, trunk_layers=1)
    planned = activation_bytes(
        DNAChunkerConfig(trunk_layers=1), bases, tool.CHUNKS, checkpointing=True, window=bases, layer_block=block,
        value_bytes=3.6, stream_bytes=2,
    )  # fmt: skip
    assert planned == pytest.approx(found.peak, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_planned_time_of_blocks_is_what_the_count_says(tool: ModuleType, *, checkpointing: bool) -> None:
    bases, block = 4 * 65_536, 65_536
    whole, blocks = (
        tool.step_cost(
            bases, "bf16-autocast", window=bases, checkpointing=checkpointing, layer_block=size, trunk_layers=1
        )
        for size in (0, block)
    )
    planned = bases * repeated_flops_per_base(
        DNAChunkerConfig(), bases, bases, tool.CHUNKS, layer_block=block, checkpointing=checkpointing
    )
    assert planned == pytest.approx(blocks.total.half - whole.total.half, rel=0.1)
    for name in ("a100", "h100", "h200", "b200"):
        gpu = tool.HARDWARE[name]
        seconds = step_time._REPEATED * planned / (gpu.bf16 * gpu.counted)
        assert seconds == pytest.approx(blocks.seconds(gpu) - whole.seconds(gpu), rel=0.2), name


@pytest.mark.parametrize("precision", LIMITS)
def test_a_step_costs_no_more_than_noted(tool: ModuleType, precision: str) -> None:
    one, two = (tool.step_cost(precision=precision, trunk_layers=layers) for layers in (1, 2))
    h100 = tool.HARDWARE["h100"]

    def with_30_layers(a: float, b: float) -> float:
        return a + 29 * (b - a)  # every layer of the trunk costs the same

    found = (
        with_30_layers(one.total.launches, two.total.launches),
        with_30_layers(one.total.bytes, two.total.bytes) / 1e9,
        with_30_layers(one.peak, two.peak) / 2**30,
        1e3 * with_30_layers(*(cost.seconds(h100, flash_attention_3=True) for cost in (one, two))),
    )
    for value, limit in zip(found, LIMITS[precision], strict=True):
        assert 0.97 * limit <= value <= limit, found
    if precision == "bf16-autocast":  # the presets'; `plan` counts on it
        seconds = {name: with_30_layers(one.seconds(gpu), two.seconds(gpu)) for name, gpu in tool.HARDWARE.items()}
        flops = with_30_layers(one.model_flops, two.model_flops)
        for name, gpu in tool.HARDWARE.items():
            assert gpu.counted == pytest.approx(flops / seconds[name] / gpu.bf16, abs=0.02), name
    assert not one.places.get("other", tool.Cost()).bytes > 1e9, "nearly all bytes have a place"

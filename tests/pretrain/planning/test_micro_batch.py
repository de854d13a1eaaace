"""`engine.micro_batch=auto`: as many windows in a pass as fit, the same number on every rank, or a refusal."""

import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_ranks import Job, Ranks

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import load_config
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import activation_bytes
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.engine.network import network_config
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.planning.hardware import HARDWARE
from dnachunker.pretrain.planning.memory import FILLED, largest_micro_batch, planned_memory, rank_memory
from dnachunker.pretrain.planning.micro_batch import choose_micro_batch
from dnachunker.pretrain.records.event_log import read_events

GIB = 2**30


def config_of(preset: str, *overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, preset, ["run=r", "data.corpus=c", *overrides], kind="pretrain")


class Peer(Rank):
    """One of several ranks in this process; `gather` answers what all of them would send."""

    def gather(self, value: Any) -> list[Any]:
        sent = [value_of(number) for number in range(self.world_size)]
        assert value == sent[self.rank]
        return sent


free: list[int] = []  # bytes of each rank's device


def value_of(rank: int) -> int:
    return free[rank]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 10**12))


def chosen_by(config: PretrainConfig, memory: Sequence[int]) -> list[PretrainConfig]:
    """What each rank chooses, with `memory` bytes free on their GPUs."""
    free[:] = memory
    peers = [Peer(rank, len(memory), rank, torch.device("cuda", rank)) for rank in range(len(memory))]
    return [choose_micro_batch(config, peer)[0] for peer in peers]


@settings(max_examples=60, deadline=None)
@given(
    preset=st.sampled_from(["tiny", "50m", "dnachunker-172m"]),
    ranks=st.sampled_from([1, 2, 4, 8]),
    windows=st.integers(1, 48),
    later=st.integers(0, 48),
    zero_stage=st.integers(0, 3),
    precision=st.sampled_from(["fp32", "bf16", "bf16-autocast"]),
    memory=st.floats(0.1, 300),
)
def test_auto_is_the_largest_divisor_whose_plan_fits(
    preset: str, ranks: int, windows: int, later: int, zero_stage: int, precision: str, memory: float
) -> None:
    phase = f"{{from_step: 1, seq_len: 16384, global_batch: {later * ranks}}}" if later else ""
    config = config_of(
        preset, "engine.micro_batch=auto", f"data.global_batch={windows * ranks}", "data.streams=64",
        f"data.curriculum=[{phase}]", f"engine.zero_stage={zero_stage}", f"engine.precision={precision}",
    )  # fmt: skip
    network = network_config(config.model, config.tokenization)
    chosen = largest_micro_batch(config, network, ranks, memory * GIB)
    for size in range(1, windows + 1):
        try:
            passes = config.with_micro_batch(size).accumulation(ranks)
        except ValueError:
            assert size != chosen
            continue
        assert passes * size == windows
        fits = planned_memory(config, network, ranks, size).peak <= memory * GIB
        assert fits if size == chosen else not fits or size < (chosen or 0)


def test_a_plan_of_growing_windows_covers_each_phase_and_each_stage() -> None:
    short, long = "data.seq_len=32768", "{from_step: 9, seq_len: 131072, global_batch: 4}"
    plans = {}
    for block in (65_536, 0):  # only layers of the second phase run in blocks
        config = config_of("dnachunker-172m", short, "data.global_batch=16", f"data.curriculum=[{long}]",
                           "data.streams=4", f"engine.layer_block={block}")  # fmt: skip
        plans[block] = planned_memory(config, network_config(config.model, config.tokenization), 1, 16).peak
    assert plans[65_536] == plans[0]

    def kept(window: int, layer_block: int) -> float:
        arguments: dict[str, Any] = {"bases": window, "window": window, "layer_block": layer_block}
        return activation_bytes(DNAChunkerConfig(), chunks_per_base=(0.56, 0.31), **arguments)

    # below 117,000 bases the chunks of the second stage are too few for blocks, and its layers keep everything
    assert kept(118_000, 65_536) < 0.8 * kept(117_000, 65_536) < 0.6 * kept(117_000, 0)


@given(memory=st.lists(st.integers(16, 200), min_size=4, max_size=4))
@settings(max_examples=20, deadline=None)
def test_every_rank_chooses_what_fits_on_the_rank_with_least_memory(memory: list[int]) -> None:
    config = config_of("dnachunker-172m", "engine.micro_batch=auto")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 10**12))
        together = chosen_by(config, [gib * GIB for gib in memory])
        least = chosen_by(config, [min(memory) * GIB] * 4)
    assert len({made.engine.micro_batch for made in together}) == 1
    assert together[0] == least[0]
    network, windows = network_config(config.model, config.tokenization), together[0].engine.micro_batch
    assert isinstance(windows, int)
    assert planned_memory(config, network, 4, windows).peak <= FILLED * min(memory) * GIB


def test_a_window_that_fits_nowhere_is_refused_with_the_numbers(gpus: None) -> None:
    config = config_of("dnachunker-172m", "engine.micro_batch=auto", "data.seq_len=1048576", "data.global_batch=1",
                       "data.streams=1", "engine.activation_checkpointing=true")  # fmt: skip
    with pytest.raises(BadInput) as refused:
        chosen_by(config, [int(HARDWARE["l40s"].memory)])
    needed = planned_memory(config, network_config(config.model, config.tokenization), 1, 1).peak / GIB
    said = str(refused.value)
    assert "\n" not in said
    assert f"windows of 1,048,576 bases, 1 in a pass, need about {needed:.1f} GiB, and 44.7 GiB of GPU memory" in said
    assert "activation_checkpointing" not in said, "it is set already"
    assert "shorten data.seq_len" in said
    assert "engine.zero_stage=2" in said
    with pytest.raises(BadInput, match="set engine.activation_checkpointing=true"):
        chosen_by(config_of("dnachunker-172m", "data.seq_len=4194304"), [GIB])


def test_a_number_far_beyond_a_gpu_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = int(HARDWARE["l40s"].memory)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (memory, memory))
    monkeypatch.setattr(Peer, "gather", lambda self, value: [value] * self.world_size)
    gpus = Peer(0, 2, 0, torch.device("cuda", 0))
    with pytest.raises(
        BadInput, match=r"64 windows of up to 8,192 bases in a pass need about .*, and a GPU has 44\.7 GiB"
    ):
        choose_micro_batch(config_of("dnachunker-172m", "engine.micro_batch=64"), gpus)
    fits = config_of("dnachunker-172m", "engine.micro_batch=2")
    assert choose_micro_batch(fits, gpus) == (fits, None)


def test_ranks_on_cpus_share_the_memory_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "gather", lambda self, value: [value] * self.world_size)
    config = config_of("dnachunker-172m", "engine.micro_batch=auto", "engine.precision=fp32")

    def windows(ranks: int, gib: int) -> Any:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=gib * GIB))
        return choose_micro_batch(config, Peer(0, ranks, 0, torch.device("cpu")))[0].engine.micro_batch

    assert windows(4, 256) == windows(1, 64) < windows(1, 256)


def test_a_resume_keeps_its_number_while_that_fits(gpus: None) -> None:
    config, h100 = config_of("dnachunker-172m", "engine.micro_batch=auto"), int(HARDWARE["h100"].memory)
    rank = Peer(0, 1, 0, torch.device("cuda", 0))

    def windows(memory: int, earlier: int | None) -> Any:
        free[:] = [memory]
        return choose_micro_batch(config, rank, earlier)[0].engine.micro_batch

    alone = windows(h100, None)
    assert windows(h100, 2) == 2 < alone
    assert windows(2 * h100, alone) == alone < windows(2 * h100, None)
    assert windows(int(0.95 * h100), alone) == alone > windows(int(0.7 * h100), alone)
    assert windows(h100, 5) == alone, "5 does not divide the windows of a rank"


def test_a_number_is_left_as_it_is() -> None:
    config = config_of("dnachunker-172m", "engine.micro_batch=4")
    assert choose_micro_batch(config, Rank(0, 1, 0, torch.device("cpu"))) == (config, None)


@pytest.mark.parametrize("preset", ["50m", "dnachunker-172m"])
def test_presets_fill_a_pass_of_an_80_gb_gpu(preset: str, gpus: None) -> None:
    config = config_of(preset)
    assert config.engine.zero_stage == 1, "gradients are reduced once a step"
    windows = chosen_by(config, [int(HARDWARE["h100"].memory)] * 8)[0].engine.micro_batch
    assert isinstance(windows, int)
    assert windows * config.data.seq_len >= 65_536


def test_autocast_keeps_fp32_states_and_bf16_copies_of_the_weights() -> None:
    def of(precision: str) -> Any:
        return rank_memory(
            DNAChunkerConfig(), ranks=4, zero_stage=1, precision=precision, bases=8192, chunks_per_base=(0.56, 0.31)
        )

    full, half, cast = of("fp32"), of("bf16"), of("bf16-autocast")
    assert (cast.parameters, cast.gradients, cast.optimizer) == (full.parameters, full.gradients, full.optimizer)
    assert cast.parameters == 4 * 171_585_280
    assert cast.activations == half.activations + 2 * 171_585_280
    assert cast.update == full.update


@pytest.mark.parametrize(("zero_stage", "sharded"), [(0, 1), (1, 4), (3, 4)])
def test_an_average_of_the_weights_takes_four_bytes_a_parameter_where_the_optimizer_keeps_its_states(
    zero_stage: int, sharded: int
) -> None:
    def of(*overrides: str) -> Any:
        config = config_of("tiny", f"engine.zero_stage={zero_stage}", *overrides)
        return planned_memory(config, DNAChunkerConfig(), 4, 1)

    plain, averaged = of(), of("optimizer.ema=0.1")
    assert averaged.optimizer - plain.optimizer == pytest.approx(4 * 171_585_280 / sharded)
    assert averaged.update == plain.update


@pytest.fixture(scope="module")
def server(sample_corpus: Path) -> Iterator[Ranks]:
    ranks = Ranks(sample_corpus)
    yield ranks
    ranks.close()


def facts(run: Path) -> tuple[list[tuple[float, float]], list[int]]:
    """Loss and gradient norm of each step, and the micro-batch of each start and resume."""
    events = read_events(run)
    losses = [(event["loss"], event["grad_norm"]) for event in events if event["event"] == "step"]
    return losses, [event["micro_batch"] for event in events if event["event"] in ("start", "resume")]


@pytest.mark.slow
def test_a_run_with_auto_is_the_run_with_the_number(server: Ranks, tmp_path: Path) -> None:
    auto, number, fewer = (tmp_path / name for name in ("auto", "number", "fewer"))
    said = server.finish(auto, "steps=4", "engine.micro_batch=auto").printed()
    assert "engine.micro_batch=auto: 4 x 128 bases in a pass" in said
    server.finish(number, "steps=4", "engine.micro_batch=4")
    assert facts(auto) == facts(number)
    assert facts(auto)[1] == [4]
    server.finish(fewer, "steps=4", "engine.micro_batch=1")
    for theirs, ours in zip(facts(fewer)[0], facts(auto)[0], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4), "the windows of a step do not depend on the micro-batch"
    server.finish(fewer, "steps=4", "engine.micro_batch=auto")
    assert facts(fewer)[1] == [1, 1], "a resume keeps the number"


@pytest.mark.slow
def test_a_refused_run_leaves_nothing(server: Ranks, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job: Job = server.start(run, "engine.micro_batch=auto", "data.seq_len=100000000")
    assert job.end() == [2, 2]
    said = job.printed().splitlines()
    assert len([line for line in said if "need about" in line]) == 1
    assert not any("Traceback" in line for line in said)
    assert not run.exists()


def test_the_passes_of_all_phases_divide() -> None:
    config = config_of(
        "tiny", "data.global_batch=24", "data.streams=64",
        "data.curriculum=[{from_step: 5, seq_len: 4096, global_batch: 16}]",
    )  # fmt: skip
    assert config.micro_batches(2) == [12 // passes for passes in (4, 2, 1)]

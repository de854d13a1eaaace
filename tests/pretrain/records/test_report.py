"""The records of networks with any number of stages, from step metrics and held-out figures to the report."""

from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import pytest
import torch

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.typed_config import validate_config
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import flops_per_base
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.data.masking import Batch, MaskingRates
from dnachunker.pretrain.data.objective import MaskedBases
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.evaluation.held_out import HeldOut
from dnachunker.pretrain.records.event_log import EventLog
from dnachunker.pretrain.records.report import write_report
from dnachunker.pretrain.records.speed import Speed
from dnachunker.pretrain.records.step_metrics import StepMetrics, StepSums
from dnachunker.pretrain.run_folder import store_config

ALONE = Rank(0, 1, 0, torch.device("cpu"))
LENGTH = 200


class Engine:
    def __init__(self, stages: int) -> None:
        torch.manual_seed(0)
        config = DNAChunkerConfig(
            encoder_layers=[1] * stages, decoder_layers=[1] * stages, target_ratios=[0.33] * stages,
            width=32, num_heads=2, trunk_layers=1, state_size=4,
        )  # fmt: skip
        self.network = DNAChunkerForMaskedLM(config).eval()
        with torch.no_grad():
            for router in self.network.dnachunker.hierarchy.routers:  # so that cuts are neither all nor none
                router.probability.query.add_(torch.randn_like(router.probability.query) * 0.3)

    def forward(self, **inputs: torch.Tensor) -> Any:
        return self.network(**inputs)

    def train(self, mode: bool = True) -> None:
        """Evaluation mode always."""


def run_of(folder: Path, corpus: Corpus, stages: int) -> PretrainConfig:
    layers = [1] * stages
    model = {"encoder_layers": layers, "decoder_layers": layers, "target_ratios": [0.33] * stages}
    small = {"width": 32, "num_heads": 2, "trunk_layers": 1, "state_size": 4}
    values = {
        "run": str(folder), "steps": 1, "model": {**model, **small},
        "data": {"corpus": corpus.path, "seq_len": LENGTH}, "evaluation": {"windows": 6},
        "tracking": {"run_name": "row 3, seed 0"},
    }  # fmt: skip
    return validate_config(PretrainConfig, values, origin="test")


def rows(batch: Batch, chosen: slice) -> Batch:
    fields = ("input_ids", "attention_mask", "labels", "loss_weights", "is_repeat")
    return Batch(*(getattr(batch, name)[chosen] for name in fields))


def add_up(engine: Engine, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> tuple[StepMetrics, list[Any]]:
    """Step metrics of two ranks, one with two micro-batches; and the outputs of all micro-batches."""
    sums, outputs, contributions = [StepSums(), StepSums()], [], []
    for rank, part in ((0, slice(0, 2)), (0, slice(2, 4)), (1, slice(4, 6))):
        micro_batch = rows(batch, part)
        with torch.no_grad():
            output = engine.forward(
                input_ids=micro_batch.input_ids, attention_mask=micro_batch.attention_mask, labels=micro_batch.labels
            )
        sums[rank].add(micro_batch, output)
        outputs.append(output)
    with monkeypatch.context() as patch:
        patch.setattr(Rank, "sum_tensor", lambda self, values: contributions.append(values.clone()) or values)
        for rank in range(2):
            sums[rank].over_all(Rank(rank, 2, rank, torch.device("cpu")), [rank, 10.0 + rank])
        patch.setattr(Rank, "sum_tensor", lambda self, values: sum(contributions))
        return sums[1].over_all(Rank(1, 2, 1, torch.device("cpu")), [1.0, 11.0]), outputs


def lengths_of(chunk_ids: torch.Tensor) -> list[int]:
    return [int(n) for row in chunk_ids for n in row[row >= 0].unique(return_counts=True)[1]]


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_records_have_as_many_stages_as_the_network(
    stages: int, toy_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine, config, names = Engine(stages), run_of(tmp_path, toy_corpus, stages), [f"stage{s}" for s in range(stages)]
    held_out = HeldOut.of(
        toy_corpus, config.data, config.evaluation, WindowReader(toy_corpus, "train"), MaskedBases(MaskingRates()),
        ALONE, micro_batch=4, learned_boundaries=True,
    )  # fmt: skip
    batch = held_out.batch(6)

    metrics, outputs = add_up(engine, batch, monkeypatch)
    assert metrics.of_ranks == [[0.0, 10.0], [1.0, 11.0]]
    bases = int(batch.attention_mask.sum())
    counts = [[int(output.chunk_counts[stage].sum()) for output in outputs] for stage in range(stages)]
    forced = [sum(int(output.forced_counts[stage].sum()) for output in outputs) for stage in range(stages)]
    total = [sum(count) for count in counts]
    assert metrics.bases == bases
    assert metrics.loss == pytest.approx(sum(float(output.loss) for output in outputs))
    assert metrics.compression == pytest.approx([c / p for c, p in zip(total, [bases, *total], strict=False)])
    assert metrics.forced_share == pytest.approx([f / c for f, c in zip(forced, total, strict=True)])
    for stage in range(stages):
        rates = torch.cat([output.natural_rates[stage] for output in outputs])
        assert metrics.natural_rate[stage] == pytest.approx(float(rates.mean()))
        lengths = [n for output in outputs for n in lengths_of(output.chunk_ids[stage])]
        assert metrics.chunk_length[stage].p50 == min(64, median_low(lengths))
        assert metrics.most_chunks[stage] == max(counts[stage]) / (2 * LENGTH)
    event = metrics.as_event()
    of_stages = ["compression", "forced_share", "natural_rate", "chunk_length", "most_chunks"]
    assert list(event) == ["loss", "mlm_loss", "ratio_loss", "bases", *of_stages]
    assert all(list(event[name]) == names for name in of_stages)
    speed = Speed(engine.network.config, ALONE, 1e12).of_step(metrics.bases, LENGTH, metrics.compression, 1.0)
    flops = flops_per_base(engine.network.config, LENGTH, [count / bases for count in total]).total
    assert speed["utilisation"] == pytest.approx(bases * flops / 1e12)

    evaluation = held_out.evaluate(engine)  # type: ignore[arg-type]
    with torch.no_grad():
        trained_on = engine.forward(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels,
            loss_weights=batch.loss_weights,
        )  # fmt: skip
    assert evaluation["objective_loss"] == pytest.approx(float(trained_on.mlm_loss), rel=1e-5)
    assert evaluation["objective_loss"] != pytest.approx(evaluation["selected_loss"])  # repeats count less
    with torch.no_grad():
        plain = engine.forward(**MaskedBases(MaskingRates()).plain_inputs(torch.from_numpy(held_out._packed)))
    chunks = [int(count.sum()) for count in plain.chunk_counts]
    assert list(evaluation["compression"]) == list(evaluation["pretraining_compression"]) == names
    assert np.prod(list(evaluation["compression"].values())) == pytest.approx(chunks[-1] / bases)
    assert list(evaluation["pretraining_compression"].values()) == pytest.approx(metrics.compression)

    segmentation = held_out.segment(engine)  # type: ignore[arg-type]
    starts = [set(segmentation[name]) for name in names]
    assert [key for key in segmentation if key.startswith("stage")] == names
    assert all(inner >= outer and 0 in outer for inner, outer in zip(starts, starts[1:], strict=False))
    assert starts[-1] == set(plain.boundaries[-1][0].nonzero().flatten().tolist())

    diagnostics = held_out.diagnose(engine)  # type: ignore[arg-type]
    measured = [f"{name}_stage{stage}" for stage in range(stages)
                for name in ("compression", "shift_overlap", "repeat_chunks", "unique_chunks")]  # fmt: skip
    assert [name for name in diagnostics if "_stage" in name] == measured
    found = [diagnostics[f"compression_{name}"] for name in names]
    assert found == pytest.approx(list(evaluation["compression"].values()))

    store_config(config)
    log = EventLog(tmp_path)
    start = {"world_size": 1, "device": "cpu", "zero_stage": 0, "corpus": "0" * 64, "code": {}, "machines": []}
    log.write("start", steps_done=0, damaged=[], versions={}, **start)
    log.write("step", steps_done=1, **event, **speed, lr=0.1, grad_norm=1.0, seconds=1.0, data_wait=0.0)
    log.write("evaluation", steps_done=1, **evaluation)
    log.write("segmentation", steps_done=1, **segmentation)
    log.write("diagnostics", steps_done=1, **diagnostics)
    log.close()
    page = write_report(tmp_path).read_text()
    assert "<h1>row 3, seed 0" in page, "as MLflow calls it"
    tile = " · ".join(f"{share:.2f}" for share in evaluation["compression"].values())
    assert f"<b>{tile}</b><span>unmasked compression, stage" in page
    for stage in range(stages + 1):
        assert (f"unmasked, stage {stage}</td>" in page) == (stage < stages)
    assert f"starts a stage-{stages - 1} chunk, which is what the trunk sees" in page

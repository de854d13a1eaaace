"""The model card: metadata that the Hub reads, and what a reader needs to know."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.pretrain.checkpoints.state import Parent, RunState, identity_of
from dnachunker.pretrain.config import PretrainConfig
from dnachunker.pretrain.export.model_card import longest_window, model_card
from dnachunker.pretrain.records.event_log import EventLog
from dnachunker.pretrain.run_folder import store_config


def trained(run: Path, corpus: Corpus, **changes: Any) -> RunState:
    """A run folder with its event log, and the state of a checkpoint after 40 steps of 50."""
    config = PretrainConfig.model_validate({"run": str(run), "steps": 50, "seed": 7, "data": {"corpus": corpus.path}})
    config = PretrainConfig.model_validate({**config.model_dump(mode="json"), **changes})
    store_config(config)
    log, versions = EventLog(run), {"dnachunker": "9.8.7", "torch": "2.1"}
    machine = {"host": socket.gethostname(), "cores": 8, "memory_gb": 64.0, "gpu": "H100", "ranks": 4}
    log.write("start", steps_done=0, machines=[machine], versions=versions, code={"commit": "abc123", "changed": True})
    scores = {"masked_loss": 1.25, "masked_accuracy": 0.375, "order0_loss": 1.4, "order3_loss": 1.3, "order5_loss": 1.2}
    log.write("evaluation", steps_done=30, **scores)
    log.write("evaluation", steps_done=50, **{**scores, "masked_loss": 1.0})
    log.close()
    return RunState(
        steps_done=40, samples_seen=320, updates=40, world_size=4, zero_stage=2, precision="bf16", device="cuda",
        skipped_batches=[], guards={}, corpus_fingerprint=corpus.fingerprint, identity=identity_of(config),
        versions=versions,
    )  # fmt: skip


def test_a_card_has_what_the_hub_reads_and_what_a_reader_needs(tmp_path: Path, toy_corpus: Corpus) -> None:
    text = model_card(tmp_path, trained(tmp_path, toy_corpus), "lab/model", license="cc-by-4.0")
    data = ModelCard(text).data
    assert data.license == "cc-by-4.0"
    assert data.datasets == ["alpha", "beta", "gamma"]
    assert data.pipeline_tag == "fill-mask"
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == {"loss": 1.25, "accuracy": 0.375}, "of the last evaluation that the checkpoint has seen"
    assert data.model_name == "model"
    for source in toy_corpus.sources:
        assert f"| {source.name} | {source.species} | {source.assembly} | {source.bases:,} |" in text
    for words in (
        'from_pretrained("lab/model"', "transformers 5.0 or newer", "4 ranks on 1 machine (H100)", "dnachunker 9.8.7",
        "commit abc123 with changes", "seed 7", "40 steps", "not made or validated for medical decisions", "@misc{",
        toy_corpus.fingerprint,
    ):  # fmt: skip
        assert words in text, words
    assert "| 1.2500 | 1.4000 | 1.3000 | 1.2000 |" in text
    assert str(tmp_path) not in text
    assert toy_corpus.path not in text
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)


def test_a_card_names_the_model_that_training_started_from(tmp_path: Path, toy_corpus: Corpus) -> None:
    state = trained(tmp_path, toy_corpus)
    assert "fresh optimizer" not in model_card(tmp_path, state, "model")
    parent = Parent(model="/private/models/human", fingerprint="ab12", steps_done=1500, reset=("head",))
    text = model_card(tmp_path, state.model_copy(update={"parent": parent}), "model")
    assert "- started from the weights of `human` after 1,500 steps, but for head, with a fresh optimizer" in text
    assert "`ab12`" in text
    assert "`human`, has seen other data" in text
    assert "/private" not in text


def test_a_card_says_that_weights_are_an_average(tmp_path: Path, toy_corpus: Corpus) -> None:
    state = trained(tmp_path, toy_corpus)
    assert "running average" not in model_card(tmp_path, state, "model")
    identity = {**state.identity, "optimizer": {**state.identity["optimizer"], "ema": 0.1}}
    text = model_card(tmp_path, state.model_copy(update={"identity": identity}), "model")
    assert "- the weights are a running average of those of training (`optimizer.ema: 0.1`)\n" in text


def test_a_corpus_that_has_moved_or_changed_is_not_described(tmp_path: Path, toy_corpus: Corpus) -> None:
    state = trained(tmp_path, toy_corpus)
    other = state.model_copy(update={"corpus_fingerprint": "0" * 64})
    text = model_card(tmp_path, other, "model")
    assert ModelCard(text).data.datasets is None
    assert "could not be read" in text


@pytest.mark.parametrize(("from_step", "longest"), [(20, 4096), (45, 1024)])
def test_the_longest_window_is_one_that_the_checkpoint_has_read(
    tmp_path: Path, toy_corpus: Corpus, from_step: int, longest: int
) -> None:
    curriculum = [{"from_step": from_step, "seq_len": 4096, "global_batch": 2}]
    state = trained(tmp_path, toy_corpus, data={"corpus": toy_corpus.path, "seq_len": 1024, "curriculum": curriculum})
    assert longest_window(state) == longest
    assert f"windows of up to {longest:,} bases" in model_card(tmp_path, state, "model")

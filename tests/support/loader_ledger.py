"""Shared by the loader tests: a loader over a corpus, and its output as plain values (the ledger)."""

import hashlib
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.pretrain.config import DataSettings
from dnachunker.pretrain.data.masking import Batch, MaskingRates
from dnachunker.pretrain.data.objective import MaskedBases
from dnachunker.pretrain.data.training_data import StepData, TrainingData
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.order.curriculum import Curriculum
from dnachunker.pretrain.order.mixing import mixture_of

SETTINGS: dict[str, Any] = {"seq_len": 700, "global_batch": 12, "streams": 12, "shuffle_blocks": 2}


def curriculum(corpus: Corpus, *, batch_of: Callable[[int], int] = int, **changes: Any) -> Curriculum:
    """The curriculum of a run over a corpus: which windows each step takes."""
    settings = DataSettings(corpus=corpus.path, **{**SETTINGS, **changes})
    blocks = corpus.blocks("train")
    mixture = mixture_of(blocks, corpus.sources, settings.mixing, corpus.path)
    return Curriculum.of(settings, blocks.bases, mixture, seed=4, batch_of=batch_of)


def loader(
    corpus: Corpus,
    order: Curriculum,
    *,
    first_step: int = 0,
    end_step: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    accumulation: int = 1,
    context_size: int = 1,
    pass_order: Callable[[Batch], torch.Tensor] | None = None,
    **reading: Any,
) -> TrainingData:
    """The loader of one rank, from `first_step` up to `end_step`."""
    return TrainingData(
        order,
        WindowReader(corpus, "train", threads=workers + 1, **reading),
        MaskedBases(MaskingRates()),
        Rank(rank, world_size, 0, torch.device("cpu"), context_size),
        accumulation=accumulation,
        first_step=first_step,
        end_step=end_step,
        workers=workers,
        order=pass_order,
    )


def ledger_lines(data: TrainingData, step: StepData, batch_rank: int, world_size: int) -> dict[int, str]:
    """By sample of the step: coordinates, strand, and sha256 of all bytes that the model gets of this window."""
    joined = {f.name: torch.cat([getattr(batch, f.name) for batch in step.micro_batches]) for f in fields(Batch)}
    lines = {}
    for row, where in enumerate(data.locate(step.windows)):
        content = b"".join(column[row].numpy().tobytes() for column in joined.values())
        lines[row * world_size + batch_rank] = f"{where} {hashlib.sha256(content).hexdigest()}"
    return lines


def drawn(data: TrainingData, steps: int, *, rank: int = 0, world_size: int = 1) -> list[dict[int, str]]:
    """The ledger of the next steps of one rank; closes the loader."""
    try:
        return [ledger_lines(data, data.draw(), rank, world_size) for _ in range(steps)]
    finally:
        data.close()

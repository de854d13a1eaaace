"""The loader delivers every base once, in an order that no machine, worker or interruption changes."""

from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from loader_ledger import SETTINGS, curriculum, drawn, loader

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.failures import BadInput
from dnachunker.model.alphabet import CODE_PAD
from dnachunker.pretrain.config import DataSettings, MixingSettings
from dnachunker.pretrain.data.masking import Batch
from dnachunker.pretrain.data.pass_order import by_expected_chunks
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.order.mixing import mixture_of


def letters_of(corpus: Corpus) -> dict[str, str]:
    """Contig -> letters of the split train, by the block decoder that shares no code with the loader's."""
    table = corpus.blocks("train")
    contigs: dict[str, list[str]] = {}
    for row in range(len(table)):
        block = corpus.read_block(table, row)
        known = contigs.setdefault(block.contig, ["."] * 60_000)
        known[block.start : block.end] = block.letters.decode()
    return {name: "".join(known) for name, known in contigs.items()}


def test_windows_are_the_letters_of_the_genome_on_either_strand(toy_corpus: Corpus) -> None:
    order = curriculum(toy_corpus)
    reader = WindowReader(toy_corpus, "train")
    genome = letters_of(toy_corpus)
    windows = order.windows(range(20), rank=0, world_size=1)
    packed = reader.read(windows, 700)
    swap = str.maketrans("ACGTacgtNn", "TGCAtgcaNn")
    for row, where in zip(packed, reader.locate(windows), strict=True):
        contig, _, span = where.partition(":")
        first, end = map(int, span[:-3].split("-"))
        start = first - 1  # regions in messages are 1-based
        expected = genome[contig][start:end]
        if span.endswith("(-)"):
            expected = expected.translate(swap)[::-1]
        valid = row[: end - start]
        table = bytes(b"ACGTN..."[i] if i < 8 else b"acgtn..."[i - 8] for i in range(16)).ljust(256, b"?")
        assert valid.tobytes().translate(table).decode() == expected
        assert (row[end - start :] == CODE_PAD).all()
    assert {where[-2] for where in reader.locate(windows)} == {"+", "-"}


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_neither_workers_nor_ranks_nor_interruptions_change_a_batch(
    toy_corpus: Corpus, workers: int, world_size: int
) -> None:
    order, steps, broken_off = curriculum(toy_corpus), 34, 13  # an epoch has about 18 steps
    expected = drawn(loader(toy_corpus, order, end_step=steps), steps)
    got: list[dict[int, str]] = [{} for _ in range(steps)]
    for rank in range(world_size):
        for begin, end in ((0, broken_off), (broken_off, steps)):
            data = loader(
                toy_corpus, order, first_step=begin, end_step=steps, rank=rank, world_size=world_size,
                workers=workers, accumulation=2, cached_blocks=3,
            )  # fmt: skip
            for step, lines in enumerate(drawn(data, end - begin, rank=rank, world_size=world_size), begin):
                got[step] |= lines
    assert got == expected


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_stretches_of_a_context_group_make_up_its_windows_and_their_masks(toy_corpus: Corpus, size: int) -> None:
    order, steps = curriculum(toy_corpus), 20
    ordered = partial(by_expected_chunks, target_ratio=0.33, mask_protection=True)
    for group in range(2):
        whole = loader(toy_corpus, order, end_step=steps, rank=group, world_size=2, accumulation=2, pass_order=ordered)
        ranks = [
            loader(
                toy_corpus, order, end_step=steps, rank=group * size + number, world_size=2 * size, context_size=size,
                accumulation=2, pass_order=ordered, workers=1,
            )
            for number in range(size)
        ]  # fmt: skip
        for _ in range(steps):
            expected, drawn_here = whole.draw(), [data.draw() for data in ranks]
            for number, batch in enumerate(expected.micro_batches):
                for field in fields(Batch):
                    stretches = [getattr(step.micro_batches[number], field.name) for step in drawn_here]
                    assert torch.equal(torch.cat(stretches, dim=1), getattr(batch, field.name)), field.name
        for data in (whole, *ranks):
            data.close()


def test_a_longer_window_starts_a_pass_of_its_own_and_resumes_exactly(toy_corpus: Corpus) -> None:
    later = [
        {"from_step": 5, "seq_len": 2100, "global_batch": 4},
        {"from_step": 40, "seq_len": 350, "global_batch": 24},
    ]
    order, steps = curriculum(toy_corpus, curriculum=later), 60
    expected = drawn(loader(toy_corpus, order, end_step=steps, workers=1), steps)
    assert [len(lines) for lines in (expected[4], expected[5], expected[40])] == [12, 4, 24]
    assert order.samples_before(45) == 5 * 12 + 35 * 4 + 5 * 24
    for first in (3, 5, 17, 40):
        resumed = drawn(loader(toy_corpus, order, first_step=first, end_step=steps, workers=2), steps - first)
        assert resumed == expected[first:]
    bases = np.zeros(60_000, int)
    for line in (line for lines in expected[5:40] for line in lines.values()):
        contig, _, rest = line.partition(":")
        start, end = map(int, rest.split("(")[0].split("-"))
        if contig == "alpha0":
            bases[start:end] += 1
    assert bases.max() - bases[bases > 0].min() <= 1, "within a phase every epoch sees every base once"


def test_a_batch_left_out_moves_all_later_ones_up(toy_corpus: Corpus) -> None:
    later = [{"from_step": 9, "seq_len": 350, "global_batch": 24}]
    whole = drawn(loader(toy_corpus, curriculum(toy_corpus, curriculum=later), end_step=20), 20)
    order = curriculum(toy_corpus, curriculum=later, batch_of=lambda step: step + (step >= 3) + (step >= 10))
    left = [batch for number, batch in enumerate(whole) if number not in (3, 11)]
    assert drawn(loader(toy_corpus, order, end_step=18, workers=2), 18) == left
    assert drawn(loader(toy_corpus, order, first_step=7, end_step=18), 11) == left[7:]


def test_shares_follow_temperature_and_weights(toy_corpus: Corpus) -> None:
    blocks, sources = toy_corpus.blocks("train"), toy_corpus.sources

    def shares(**settings: Any) -> dict[str, float]:
        mixture = mixture_of(blocks, sources, MixingSettings(**settings), "c")
        seen = np.bincount(mixture.group, weights=blocks.bases * mixture.repeats[mixture.group])
        assert seen.sum() == pytest.approx(blocks.bases[mixture.repeats[mixture.group] > 0].sum())
        return {source.name: share for source, share in zip(sources, seen / seen.sum(), strict=True)}

    bases = {name: blocks.bases[blocks.source == name].sum() for name in ("alpha", "beta", "gamma")}
    assert shares() == pytest.approx({name: n / sum(bases.values()) for name, n in bases.items()})
    roots = {name: n**0.5 for name, n in bases.items()}
    assert shares(temperature=2) == pytest.approx({name: n / sum(roots.values()) for name, n in roots.items()})
    doubled = shares(by="species", weights={"gamma": 3, "beta": 0})
    assert doubled["beta"] == 0
    assert doubled["gamma"] / doubled["alpha"] == pytest.approx(3 * bases["gamma"] / bases["alpha"])
    with pytest.raises(BadInput, match="no source 'delta'"):
        shares(weights={"delta": 1})
    with pytest.raises(BadInput, match="weight 0"):
        shares(weights=dict.fromkeys(bases, 0))


def test_phases_must_follow_each_other() -> None:
    for steps in ([0], [5, 5], [7, 3]):
        phases = [{"from_step": step, "seq_len": 8, "global_batch": 2} for step in steps]
        with pytest.raises(ValueError, match="from_step must grow"):
            DataSettings(corpus="c", curriculum=phases, **SETTINGS)


def test_memory_stays_flat_over_epochs(toy_corpus: Corpus) -> None:
    order = curriculum(toy_corpus)
    epoch_steps = order.phase(0).order.epoch_windows(0) // 12
    data = loader(toy_corpus, order, end_step=100 * epoch_steps, workers=2, cached_blocks=6)
    resident = []
    for _ in range(40):
        for _ in range(epoch_steps):
            data.draw()
        resident.append(psutil.Process().memory_info().rss)
    data.close()
    assert max(resident[20:]) < 1.05 * max(resident[:10])

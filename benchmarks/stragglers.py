"""How much time ranks lose by waiting for the rank whose windows have the most chunks.

python benchmarks/stragglers.py RUN --corpus DIR [--seq-len 8192] [--global-batch 128] [--batches 4]

Runs the newest checkpoint of RUN over training batches in their real order, with masks, and computes the work of each
window (model FLOPs) from its chunks: for the model of RUN, and for the 172M model, whose trunk is a larger share.

The first table gives the relative standard deviation of a window's work (`--window-variation` of `dnachunker plan`).
For W ranks it also gives how much longer the busiest rank works than the mean, in three ways: with the real order, by
the formula of the plan, and if the windows were given out by their work, longest first to the least loaded rank.

The second table is for ranks that wait for each other after every window, as with ZeRO stages 2 and 3. It compares
three orders of a rank's windows: as drawn, as training sorts them (`pretrain/data/pass_order.py`), and by their work.
"""

import argparse
import math
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import torch
from numpy.typing import NDArray

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.model.configuration_dnachunker import DNAChunkerConfig
from dnachunker.model.cost import flops_per_base
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.checkpoints.loading import read_weights
from dnachunker.pretrain.checkpoints.saving import choose_checkpoint
from dnachunker.pretrain.checkpoints.state import read_state
from dnachunker.pretrain.config import DataSettings, ModelSettings
from dnachunker.pretrain.data.masking import MaskingRates
from dnachunker.pretrain.data.objective import MaskedBases
from dnachunker.pretrain.data.pass_order import expected_chunks
from dnachunker.pretrain.data.training_data import TrainingData
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.order.curriculum import Curriculum
from dnachunker.pretrain.order.mixing import mixture_of
from dnachunker.pretrain.planning.step_time import expected_maximum

Floats = NDArray[np.float64]


def chunks_of_windows(run: Path, data: DataSettings, batches: int) -> tuple[DNAChunkerConfig, Floats, Floats, Floats]:
    """Run the newest checkpoint over `batches` global batches of G windows.

    Returns:
        The config of the network, and for each window: the chunks of each stage (batches * G, stages), the bases
        (batches * G,), and the number of chunks that `expected_chunks` predicts (batches * G,).
    """
    checkpoint = choose_checkpoint(run)
    settings = ModelSettings.model_validate(read_state(checkpoint).identity["model"])
    network = DNAChunkerConfig(**settings.model_dump())
    model = DNAChunkerForMaskedLM(network).eval()
    model.load_state_dict(read_weights(checkpoint))
    corpus = Corpus.open(data.corpus)
    blocks = corpus.blocks(data.train_split)
    curriculum = Curriculum.of(data, blocks.bases, mixture_of(blocks, corpus.sources, data.mixing, data.corpus), seed=0)
    reader = WindowReader(corpus, data.train_split, cached_blocks=data.streams * (data.shuffle_blocks + 1))
    rank = Rank(0, 1, 0, torch.device("cpu"))
    drawn = TrainingData(
        curriculum, reader, MaskedBases(MaskingRates()), rank,
        accumulation=data.global_batch, first_step=0, end_step=batches,
    )  # fmt: skip
    counts, bases, expected = [], [], []
    ahead = partial(expected_chunks, target_ratio=network.target_ratios[0], mask_protection=network.mask_protection)
    for _ in range(batches):
        for batch in drawn.draw().micro_batches:
            with torch.no_grad():
                output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            counts.append([float(count.sum()) for count in output.chunk_counts])
            bases.append(float(batch.attention_mask.sum()))
            expected.append(float(ahead(batch)))
    drawn.close()
    return network, np.array(counts), np.array(bases), np.array(expected)


def work_of(network: DNAChunkerConfig, counts: Floats, bases: Floats) -> Floats:
    """Model FLOPs of each window (windows,); pads cost nothing."""
    return np.array([
        flops_per_base(network, length, chunks / length).total * length
        for chunks, length in zip(counts, bases, strict=True)
    ])  # fmt: skip


def excess_in_order(work: Floats, ranks: int) -> float:
    """Work of the busiest rank divided by the mean, minus 1, when rank r takes windows r, r + W, …; mean over batches.

    Args:
        work: (batches, G).
    """
    loads = np.array([[row[rank::ranks].sum() for rank in range(ranks)] for row in work])
    return float((loads.max(1) / loads.mean(1)).mean() - 1)


def excess_dealt_by_work(work: Floats, ranks: int) -> float:
    """As `excess_in_order`, when windows are given out longest first to the least loaded rank, equally many to each."""
    excess = []
    for row in work:
        loads, taken = np.zeros(ranks), np.zeros(ranks, int)
        for value in np.sort(row)[::-1]:
            free = np.flatnonzero(taken < len(row) // ranks)
            rank = free[loads[free].argmin()]
            loads[rank] += value
            taken[rank] += 1
        excess.append(loads.max() / loads.mean() - 1)
    return float(np.mean(excess))


def excess_by_pass(work: Floats, ranks: int, keys: Floats) -> float:
    """As `excess_in_order`, when ranks wait for each other after every window.

    Args:
        keys: (batches, G); each rank takes its windows in the order of falling keys.
    """
    excess = []
    for row, order in zip(work, keys, strict=True):
        own = np.stack([row[rank::ranks][np.argsort(-order[rank::ranks], kind="stable")] for rank in range(ranks)])
        excess.append(own.max(0).sum() / (own.mean() * own.shape[1]) - 1)
    return float(np.mean(excess))


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with a checkpoint")
    parser.add_argument("--corpus", required=True, help="corpus folder")
    parser.add_argument("--seq-len", type=int, default=8192, help="bases of a window (default: %(default)s)")
    parser.add_argument("--global-batch", type=int, default=128, help="windows of a step (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=4, help="number of steps (default: %(default)s)")
    options = parser.parse_args()
    data = DataSettings(corpus=options.corpus, seq_len=options.seq_len, global_batch=options.global_batch)
    network, counts, bases, expected = chunks_of_windows(options.run, data, options.batches)
    print(
        f"{len(bases)} windows of at most {options.seq_len:,} bases; chunks a base "
        + ", ".join(f"{share:.3f}" for share in counts.sum(0) / bases.sum())
    )
    print("| model | variation of a window's work | ranks | in order | formula | dealt by work |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, config in (("of the run", network), ("dnachunker-172m", DNAChunkerConfig())):
        work = work_of(config, counts, bases).reshape(options.batches, -1)
        variation = float(work.std() / work.mean())
        ranks = 2
        while ranks <= options.global_batch:
            formula = variation / math.sqrt(options.global_batch / ranks) * expected_maximum(ranks)
            shares = (excess_in_order(work, ranks), formula, excess_dealt_by_work(work, ranks))
            print(f"| {name} | {variation:.3f} | {ranks} | {' | '.join(f'{share:.1%}' for share in shares)} |")
            ranks *= 4
    print("\n| model | work and expected chunks correlate | ranks | as they come | as training orders them | by work |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, config in (("of the run", network), ("dnachunker-172m", DNAChunkerConfig())):
        work = work_of(config, counts, bases)
        correlation = np.corrcoef(work, expected)[0, 1]
        rows = [values.reshape(options.batches, -1) for values in (np.zeros_like(work), expected, work)]
        ranks = 2
        while ranks < options.global_batch:
            shares = [excess_by_pass(rows[2], ranks, keys) for keys in rows]
            print(f"| {name} | {correlation:.2f} | {ranks} | {' | '.join(f'{share:.1%}' for share in shares)} |")
            ranks *= 4


if __name__ == "__main__":
    main()

"""Held-out evaluation: the loss of the run's objective, beside Markov baselines on the same positions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.corpus.markov import ORDERS, MarkovTables
from dnachunker.dataprep.packed_codes import LETTERS
from dnachunker.model.alphabet import CODE_PAD
from dnachunker.model.strands import complement, complement_logits
from dnachunker.pretrain.config import DataSettings
from dnachunker.pretrain.data.block_cache import UInt8Array
from dnachunker.pretrain.data.headline import Headline, by_stage, stages_of
from dnachunker.pretrain.data.masking import Batch
from dnachunker.pretrain.data.objective import Objective
from dnachunker.pretrain.data.training_data import window_keys
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.engine.deepspeed_engine import TrainingEngine
from dnachunker.pretrain.engine.ranks import Rank
from dnachunker.pretrain.order.sample_order import Windows, held_out_windows
from dnachunker.pretrain.settings.evaluation import EvaluationSettings

from .diagnostics import (
    COMPRESSION_RANGE,
    LEAST_REPEAT_CHUNKS,
    LEAST_SHIFT_OVERLAP,
    LEAST_TRUNK_NATS,
    summarise,
    warnings_of,
    window_sums,
)

_SEGMENT_BASES = 1000  # shown in a report


class HeldOut:
    """A fixed set of held-out windows with their corruption and baseline losses, spread over the ranks."""

    def __init__(
        self,
        reader: WindowReader,
        windows: Windows,
        species: Sequence[str] | npt.NDArray[np.str_],
        objective: Objective,
        tables: MarkovTables,
        rank: Rank,
        *,
        seq_len: int,
        micro_batch: int,
        average_strands: bool = False,
        learned_boundaries: bool = True,
    ) -> None:
        """
        Args:
            windows: the same list on every rank; this rank takes every W-th of it, with the ranks of its context group.
            species: of each window.
            seq_len: bases of a window.
            micro_batch: windows in one forward pass.
            average_strands: predict with the mean over a window and its reverse complement.
            learned_boundaries: warn of what routers can get wrong.
        """
        self._rank = rank
        self._reader = reader
        self._count = len(windows)
        self._species = np.array(species)
        # every rank makes the same number of forward passes, as ZeRO-3 needs: the last ones repeat a window
        per_rank = -(-len(windows) // rank.data_ranks)
        mine = [min(i * rank.data_ranks + rank.data_rank, len(windows) - 1) for i in range(per_rank)]
        self._mine = mine
        self._windows = windows.take(np.array(mine))
        self._packed = reader.read(self._windows, seq_len)
        self._objective = objective
        self._tables = tables
        self._micro_batch = micro_batch
        self._average_strands = average_strands
        self._learned_boundaries = learned_boundaries

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        data: DataSettings,
        settings: EvaluationSettings,
        train_reader: WindowReader,
        objective: Objective,
        rank: Rank,
        *,
        micro_batch: int,
        learned_boundaries: bool,
    ) -> "HeldOut":
        """The evaluation that a config asks for.

        Args:
            train_reader: reads the training split, on which the baselines are counted.
            micro_batch, learned_boundaries: as in `__init__`.
        """
        reader = WindowReader(corpus, settings.split)
        windows = held_out_windows(reader.block_bases, seq_len=data.seq_len, count=settings.windows)
        species = corpus.blocks(settings.split).species
        # blocks are in the order of contigs, so that every n-th block samples the whole corpus
        stride = -(-int(train_reader.block_bases.sum()) // settings.baseline_bases)
        tables = MarkovTables.cached(
            f"{corpus.fingerprint[:16]}-{data.train_split}-{stride}",
            lambda: (train_reader.block(index) & 7 for index in range(0, len(train_reader.block_bases), stride)),
        )
        return cls(
            reader, windows, species[windows.block], objective, tables, rank,
            seq_len=data.seq_len, micro_batch=micro_batch, average_strands=settings.average_strands,
            learned_boundaries=learned_boundaries,
        )  # fmt: skip

    def evaluate(self, engine: TrainingEngine, on_batch: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Losses (nats per position), accuracy and compression (chunks per base and per chunk); collective.

        For masked bases, `masked_loss` is over [MASK] positions only. `selected_loss` is over all selected positions,
        and lower, since some of them were left unchanged. For a causal model, `next_base_loss` is over all A, C, G and
        T. `objective_loss` has the positions and the weights of the training loss. `compression` is of sequence in
        which nothing is masked, `pretraining_compression` of masked sequence. Where there are several species,
        `species` has all of this for each, whether or not training saw it.

        Args:
            on_batch: called before each forward pass, so that a long evaluation is not taken for a hang.
        """
        engine.train(False)
        names: tuple[str, ...] = ()
        scores = []
        with torch.no_grad():
            for begin in range(0, len(self._mine), self._micro_batch):
                on_batch()
                rows = slice(begin, begin + self._micro_batch)
                names, of_batch = self._score(engine, self._packed[rows], self._windows.take(rows))
                scores.append(of_batch)
        engine.train()
        table = torch.zeros(self._count, len(names), dtype=torch.float64)
        table[self._mine] = torch.cat(scores)
        # a window repeated to fill up a rank must count once: only the rank that owns the window keeps its row
        owner = torch.arange(self._count) % self._rank.data_ranks == self._rank.data_rank
        owner &= self._rank.context_rank == 0
        table = self._rank.sum_tensor((table * owner[:, None]).to(self._rank.device)).cpu()
        return self._summarise(names, table.numpy())

    def segment(self, engine: TrainingEngine) -> dict[str, Any]:
        """The chunks at the start of this rank's first window when nothing is masked; collective.

        Returns:
            `where`, `sequence` (letters, lower case where soft-masked) and, as `stage0` and so on, the positions in
            `sequence` at which each stage starts a chunk.
        """
        engine.train(False)
        with torch.no_grad():
            output = engine.network(**self._plain_inputs(self._packed[:1]))
        engine.train()
        packed = self._packed[0, :_SEGMENT_BASES]
        valid = int(((packed & 7) != CODE_PAD).sum())
        cuts = [stage[0, -self._packed.shape[1] :][:valid] for stage in output.boundaries]  # without a [BOS]
        starts = [np.flatnonzero(stage.cpu().numpy()).tolist() for stage in cuts]
        return {
            "where": self._reader.locate(self._windows.take(slice(1)))[0],
            "sequence": packed[:valid].tobytes().translate(LETTERS).decode("ascii"),
            **by_stage(starts),
        }

    def diagnose(self, engine: TrainingEngine, on_batch: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Measures the known silent failures; collective.

        Returns:
            What `diagnostics.diagnose` measures, `warnings` (names), `messages` (lines for people) and `thresholds`.
        """
        names: tuple[str, ...] = ()
        total: torch.Tensor | float = 0.0
        for begin in range(0, len(self._mine), self._micro_batch):
            on_batch()
            rows = slice(begin, begin + self._micro_batch)
            names, sums = window_sums(
                engine.network, self._corrupt(self._packed[rows], self._windows.take(rows)), self._objective
            )
            numbers = range(len(self._mine))[rows]
            owned = [i * self._rank.data_ranks + self._rank.data_rank < self._count for i in numbers]
            total = total + sums[torch.tensor(owned, device=sums.device)].sum(0) * (self._rank.context_rank == 0)
        assert isinstance(total, torch.Tensor), "there is at least one window"
        metrics = summarise(names, self._rank.sum_tensor(total), self._objective.headline)
        found = warnings_of(metrics, learned=self._learned_boundaries)
        return {
            **metrics,
            "warnings": [warning.name for warning in found],
            "messages": [warning.message for warning in found],
            "thresholds": {
                "trunk_cost": LEAST_TRUNK_NATS, "shift_overlap": LEAST_SHIFT_OVERLAP,
                "repeat_chunks_share": LEAST_REPEAT_CHUNKS,
                "least_compression": COMPRESSION_RANGE[0], "most_compression": COMPRESSION_RANGE[1],
            },
        }  # fmt: skip

    def batch(self, count: int) -> Batch:
        """This rank's first `count` windows, corrupted as in every evaluation."""
        return self._corrupt(self._packed[:count], self._windows.take(slice(count)))

    def _corrupt(self, packed: UInt8Array, windows: Windows) -> Batch:
        device = self._rank.device
        return self._objective.batch(torch.from_numpy(packed).to(device), window_keys(windows).to(device))

    def _plain_inputs(self, packed: UInt8Array) -> dict[str, torch.Tensor]:
        return self._objective.plain_inputs(torch.from_numpy(packed).to(self._rank.device))

    def _score(
        self, engine: TrainingEngine, packed: UInt8Array, windows: Windows
    ) -> tuple[tuple[str, ...], torch.Tensor]:
        """K names and (B, K) float64 on the CPU, a row for each window.

        Rows are sums, so that averages are the same however windows are grouped and spread over ranks.
        """
        batch = self._corrupt(packed, windows)
        output = engine.network(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        logits = output.logits.float()
        if self._average_strands:
            logits = (logits + _logits_across(engine, batch)) / 2
        judged = self._objective.judge(batch, logits)
        losses, scored, selected = judged.losses.double(), judged.scored, judged.selected
        repeat = scored & judged.is_repeat
        plain = engine.network(**self._plain_inputs(packed))
        columns = {
            "bases": batch.attention_mask.sum(1),
            "scored": scored.sum(1), "scored_loss": (losses * scored).sum(1),
            "scored_correct": (judged.correct & scored).sum(1),
            "repeat": repeat.sum(1), "repeat_loss": (losses * repeat).sum(1),
            "selected": selected.sum(1), "selected_loss": (losses * selected).sum(1),
            "weights": judged.weights.double().sum(1), "objective_loss": (losses * judged.weights).sum(1),
        }  # fmt: skip
        for order in ORDERS:
            nats = np.stack([self._tables.losses(row & 7, order) for row in packed])
            columns[f"order{order}_loss"] = torch.from_numpy(np.where(scored.cpu().numpy(), nats, 0.0).sum(axis=1))
        columns |= {f"pretraining_chunks{stage}": count for stage, count in enumerate(output.chunk_counts)}
        columns |= {f"chunks{stage}": count for stage, count in enumerate(plain.chunk_counts)}
        rows = torch.stack([column.detach().to("cpu", torch.float64) for column in columns.values()], dim=1)
        return tuple(columns), rows

    def _summarise(self, names: Sequence[str], table: Any) -> dict[str, Any]:
        headline = self._objective.headline
        summary = _averages(names, table, headline)
        summary["windows"] = self._count
        by_species = {
            species: _averages(names, table[self._species == species], headline)
            for species in sorted(set(self._species.tolist()))
        }
        if len(by_species) > 1:
            summary["species"] = by_species
        return summary


def _logits_across(engine: TrainingEngine, batch: Batch) -> torch.Tensor:
    """(B, L, V) float32: the logits of each base when the model reads the windows' other strand."""
    ids, mask = complement(batch.input_ids).flip(1), batch.attention_mask.flip(1)
    return complement_logits(engine.network(input_ids=ids, attention_mask=mask).logits.float().flip(1))


def _averages(names: Sequence[str], table: Any, headline: Headline) -> dict[str, Any]:
    total = dict(zip(names, np.asarray(table).sum(axis=0).tolist(), strict=True))

    def ratio(part: str, whole: str) -> float:
        return total[part] / total[whole] if total[whole] else float("nan")

    def compression(chunks: str) -> dict[str, float]:
        parts = [f"{chunks}{stage}" for stage in stages_of(names, chunks)]
        return by_stage(ratio(part, whole) for part, whole in zip(parts, ["bases", *parts], strict=False))

    unique = {
        "scored": total["scored"] - total["repeat"],
        "loss": total["scored_loss"] - total["repeat_loss"],
    }
    return {
        f"{headline.key}_loss": ratio("scored_loss", "scored"),
        **{f"order{order}_loss": ratio(f"order{order}_loss", "scored") for order in ORDERS},
        f"{headline.key}_accuracy": ratio("scored_correct", "scored"),
        "repeat_loss": ratio("repeat_loss", "repeat"),
        "unique_loss": unique["loss"] / unique["scored"] if unique["scored"] else float("nan"),
        "selected_loss": ratio("selected_loss", "selected"),
        "objective_loss": ratio("objective_loss", "weights"),
        "compression": compression("chunks"),
        "pretraining_compression": compression("pretraining_chunks"),
        "bases": total["bases"],
        headline.key: total["scored"],
    }

"""Scores of a variant: the log-likelihood ratio of its alleles, and how far it moves chunk boundaries.

Likelihood ratio: sum over the masked bases of log P(base | rest of the window), alternative minus reference, natural
logarithm, P over A, C, G, T, averaged over both strands. All bases of an allele are masked at once. Both alleles are
scored over the same number of bases: the shorter one is extended by its neighbours, once to the left and once to the
right, and the two values are averaged.

Boundary shift, per stage: 1 - Jaccard index of the cuts of the two haplotypes outside the alleles, within a radius,
averaged over both strands; 0 is no change.

Many windows are the same: those of both alleles of an SNV once its position is masked, and those with the reference
at a position with several variants. The network reads each distinct window once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dnachunker.downstream.exported import Exported, batches

from .alleles import Alleles, Fetch

_PIECE_VARIANTS = 64
_PIECE_BASES = 2**21  # bounds memory where windows are long

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class VariantScore:
    """Log-likelihood ratio in nats, and boundary shifts per stage in [0, 1]; no shifts where none are asked for."""

    likelihood_ratio: float
    shifts: tuple[float, ...]


@dataclass(frozen=True)
class _Haplotype:
    """A window on one strand that has one allele at [start, end)."""

    ids: Ids
    start: int
    end: int


@dataclass(frozen=True)
class Scorer:
    """An exported model that scores variants.

    Attributes:
        masked: `exported.network("masked")`.
        boundaries: `exported.network("boundaries")`; None for no boundary shifts.
        context: bases of a window, the alleles in the middle; fewer at a contig's end.
        radius: bases to either side of the alleles in which cuts are compared.
    """

    exported: Exported
    masked: nn.Module
    boundaries: nn.Module | None
    context: int
    radius: int

    def scores(self, variants: Sequence[tuple[Alleles, Fetch, int]]) -> list[VariantScore]:
        """Scores of variants: alleles, the letters of their contig, and its length."""
        size = max(1, min(_PIECE_VARIANTS, _PIECE_BASES // self.context))
        return [score for piece in batches(len(variants), size) for score in self._piece(variants[piece])]

    def _piece(self, variants: Sequence[tuple[Alleles, Fetch, int]]) -> Iterator[VariantScore]:
        masked, plain = _Windows(), _Windows()
        plans = []
        for alleles, fetch, length in variants:
            pair = [self._both_strands(haplotype) for haplotype in self._haplotypes(alleles, fetch, length)]
            reads = [
                [read for one in strands for read in self._reads(one, alleles.longest, masked)] for strands in pair
            ]
            cuts = [[plain.number(one.ids) for one in strands] for strands in pair] if self.boundaries else []
            plans.append((pair, reads, cuts))
        tables = self._run(self.masked, masked.windows, self._log_probabilities)
        starts = self._run(self.boundaries, plain.windows, _chunk_starts) if self.boundaries else []
        for pair, reads, cuts in plans:
            reference, alternative = (
                float(np.mean([self._likelihood(tables[number], true) for number, true in ours])) for ours in reads
            )
            near = [
                [_near(starts[number], one, self.radius) for number, one in zip(numbers, strands, strict=True)]
                for numbers, strands in zip(cuts, pair, strict=bool(cuts))
            ]
            yield VariantScore(alternative - reference, _shifts(*near) if near else ())

    def _haplotypes(self, alleles: Alleles, fetch: Fetch, length: int) -> Iterator[_Haplotype]:
        """The window with the reference, and with the alternative."""
        flank = (self.context - alleles.longest) // 2
        left = fetch(max(0, alleles.start - flank), alleles.start)
        right = fetch(alleles.end, min(length, alleles.end + flank))
        for allele in (alleles.reference, alleles.alternative):
            yield _Haplotype(self.exported.encode(left + allele + right), len(left), len(left) + len(allele))

    def _both_strands(self, haplotype: _Haplotype) -> tuple[_Haplotype, _Haplotype]:
        ids = self.exported.reverse_complement(haplotype.ids)
        return haplotype, _Haplotype(ids, len(ids) - haplotype.end, len(ids) - haplotype.start)

    def _reads(self, haplotype: _Haplotype, count: int, masked: "_Windows") -> Iterator[tuple[int, Ids]]:
        """The numbers of the windows in which `count` bases are masked, and the ids behind these masks."""
        for start, end in _spans(haplotype, count):
            ids = haplotype.ids.copy()
            ids[start:end] = self.exported.ids["mask"]
            yield masked.number(ids), haplotype.ids[start:end]

    def _run(self, network: nn.Module, windows: Sequence[Ids], read: Callable[[Any, int, Ids], Any]) -> list[Any]:
        """What `read` takes from the network's output, the row in it and the ids, for each window."""
        found = []
        for part in batches(len(windows), self.exported.batch_rows(self.context)):
            tokens, present = self.exported.batch(windows[part])
            with torch.no_grad():
                output = network(input_ids=tokens, attention_mask=present)
            found += [read(output, row, ids) for row, ids in enumerate(windows[part])]
        return found

    def _log_probabilities(self, output: Any, row: int, ids: Ids) -> NDArray[np.float64]:
        """(n, 4) of the masked positions, over A, C, G, T."""
        places = np.flatnonzero(ids == self.exported.ids["mask"])
        logits = output.logits[row, places[0] : places[-1] + 1][:, self._bases]
        table: NDArray[np.float64] = logits.double().log_softmax(-1).cpu().numpy()
        return table

    def _likelihood(self, table: NDArray[np.float64], true: Ids) -> float:
        known = np.isin(true, self._bases)  # an extended allele may hold an N, which adds nothing
        return float(table[known, np.searchsorted(self._bases, true[known])].sum())

    @property
    def _bases(self) -> list[int]:
        return [self.exported.ids[letter] for letter in "ACGT"]


class _Windows:
    """Windows to run, each distinct one once."""

    def __init__(self) -> None:
        self.windows: list[Ids] = []
        self._numbers: dict[bytes, int] = {}

    def number(self, ids: Ids) -> int:
        """The place of a window among the windows; a new one is added."""
        number = self._numbers.setdefault(ids.tobytes(), len(self.windows))
        if number == len(self.windows):
            self.windows.append(ids)
        return number


def _spans(haplotype: _Haplotype, count: int) -> list[tuple[int, int]]:
    """Spans of `count` bases that hold the allele: the allele alone, or extended to the left and to the right."""
    missing = count - (haplotype.end - haplotype.start)
    if not missing:
        return [(haplotype.start, haplotype.end)]
    sides = [(haplotype.start - missing, haplotype.end), (haplotype.start, haplotype.end + missing)]
    return [(start, end) for start, end in sides if start >= 0 and end <= len(haplotype.ids)]


def _chunk_starts(output: Any, row: int, ids: Ids) -> list[Ids]:
    """Per stage, where chunks start; the first base, which always starts one, is left out."""
    return [np.flatnonzero(stage[row, 1 : len(ids)].cpu().numpy()) + 1 for stage in output.boundaries]


def _near(starts: Sequence[Ids], haplotype: _Haplotype, radius: int) -> list[Ids]:
    """Per stage, the chunk starts outside the allele: below 0 those before it, by their distance from it."""
    found = []
    for cuts in starts:
        before = cuts[(cuts >= haplotype.start - radius) & (cuts <= haplotype.start)] - haplotype.start - 1
        after = cuts[(cuts >= haplotype.end) & (cuts <= haplotype.end + radius)] - haplotype.end
        found.append(np.concatenate([before, after]))
    return found


def _shifts(reference: Sequence[Sequence[Ids]], alternative: Sequence[Sequence[Ids]]) -> tuple[float, ...]:
    """Per stage, the mean over strands of 1 - Jaccard index. Both arguments by strand and stage."""
    each = []
    for ours, theirs in zip(reference, alternative, strict=True):
        shared = [len(np.intersect1d(one, two)) for one, two in zip(ours, theirs, strict=True)]
        union = [len(np.union1d(one, two)) for one, two in zip(ours, theirs, strict=True)]
        each.append([1 - both / total if total else 0.0 for both, total in zip(shared, union, strict=True)])
    return tuple(float(value) for value in np.mean(each, axis=0))

"""Scores of a variant: the log-likelihood ratio of its alleles, and how far it moves chunk boundaries.

Likelihood ratio: sum over the masked bases of log P(base | rest of the window), alternative minus reference, natural
logarithm, P over A, C, G, T, averaged over both strands. All bases of an allele are masked at once. Both alleles are
scored over the same number of bases: the shorter one is extended by its neighbours, once to the left and once to the
right, and the two values are averaged.

Boundary shift, per stage: 1 - Jaccard index of the cuts of the two haplotypes outside the alleles, within a radius,
averaged over both strands; 0 is no change.

Trunk change: distance between the trunk's chunk vectors of the two haplotypes, at the alleles and on average over the
bases within the radius. Entropy: of the predicted bases of the reference, nats, at its masked bases and on average over
the other bases within the radius. Both are averaged over strands.

Many windows are the same: those of both alleles of an SNV once its position is masked, and those with the reference
at a position with several variants. The network reads each distinct window once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dnachunker.downstream.exported import Exported, batches

from .alleles import Alleles, Fetch

FURTHER = ("trunk_cosine", "trunk_cosine_near", "trunk_l2", "trunk_l2_near", "entropy", "entropy_near")
_PIECE_VARIANTS = 64
_PIECE_BASES = 2**21  # bounds memory where windows are long
_TINY = 1e-12  # where a vector is zero

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class VariantScore:
    """Log-likelihood ratio in nats, and boundary shifts per stage in [0, 1]; no shifts where none are asked for.

    Attributes:
        further: trunk changes and entropies by their names in `FURTHER`; empty where none are asked for.
    """

    likelihood_ratio: float
    shifts: tuple[float, ...]
    further: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Haplotype:
    """A window on one strand that has one allele at [start, end)."""

    ids: Ids
    start: int
    end: int


@dataclass(frozen=True)
class _Predicted:
    """Log-probabilities (n, 4) of the masked bases, over A, C, G, T; mean entropies of these and of bases nearby."""

    table: NDArray[np.float64]
    entropies: tuple[float, float]


@dataclass(frozen=True)
class _Seen:
    """Chunk starts near the allele by stage; the trunk's vectors (n, D) at the allele, then at all bases nearby.

    There are no vectors where only cuts are asked for.
    """

    cuts: list[Ids]
    vectors: NDArray[np.float64]


@dataclass(frozen=True)
class Scorer:
    """An exported model that scores variants.

    Attributes:
        masked: `exported.network("masked")`.
        boundaries: `exported.network("boundaries")`, or `exported.network("trunk")` for the further scores too; None
            for neither these nor boundary shifts.
        context: bases of a window, the alleles in the middle; fewer at a contig's end.
        radius: bases to either side of the alleles in which cuts and vectors are compared.
        further: whether to compute the further scores.
    """

    exported: Exported
    masked: nn.Module
    boundaries: nn.Module | None
    context: int
    radius: int
    further: bool = False

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
            plain_pair = [[plain.number(one) for one in strands] for strands in pair] if self.boundaries else []
            plans.append((reads, plain_pair))
        predicted = self._run(self.masked, masked.windows, self._predicted)
        seen = self._run(self.boundaries, plain.windows, self._seen) if self.boundaries else []
        for reads, numbers in plans:
            reference, alternative = (
                float(np.mean([self._likelihood(predicted[number].table, true) for number, true in ours]))
                for ours in reads
            )
            ratio = alternative - reference
            if not seen:
                yield VariantScore(ratio, ())
                continue
            before, after = ([seen[number] for number in strands] for strands in numbers)
            further = {}
            if self.further:
                entropies = [predicted[number].entropies for number, _ in reads[0]]
                further = dict(zip(FURTHER, [*_distances(before, after), *np.mean(entropies, 0)], strict=True))
            shifts = _shifts([one.cuts for one in before], [one.cuts for one in after])
            yield VariantScore(ratio, shifts, further)

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
            yield masked.number(_Haplotype(ids, start, end)), haplotype.ids[start:end]

    def _run(
        self, network: nn.Module, windows: Sequence[_Haplotype], read: Callable[[Any, int, _Haplotype], Any]
    ) -> list[Any]:
        """What `read` takes from the network's output and the row in it, for each window."""
        found = []
        for part in batches(len(windows), self.exported.batch_rows(self.context)):
            tokens, present = self.exported.batch([window.ids for window in windows[part]])
            options = {"output_hidden_states": True} if self.further and network is self.boundaries else {}
            with torch.no_grad():
                output = network(input_ids=tokens, attention_mask=present, **options)
            found += [read(output, row, window) for row, window in enumerate(windows[part])]
        return found

    def _predicted(self, output: Any, row: int, window: _Haplotype) -> _Predicted:
        """Of a window whose [start, end) is masked."""
        around = slice(max(0, window.start - self.radius), min(len(window.ids), window.end + self.radius))
        read = around if self.further else slice(window.start, window.end)
        log = output.logits[row, read][:, self._bases].double().log_softmax(-1).cpu().numpy()
        masked = np.zeros(len(log), bool)
        masked[window.start - read.start : window.end - read.start] = True
        entropy = -(np.exp(log) * log).sum(1)
        near = entropy[~masked] if self.further and not masked.all() else entropy
        return _Predicted(log[masked], (float(entropy[masked].mean()), float(near.mean())))

    def _seen(self, output: Any, row: int, window: _Haplotype) -> _Seen:
        """Of a window without masks."""
        starts = [np.flatnonzero(stage[row, 1 : len(window.ids)].cpu().numpy()) + 1 for stage in output.boundaries]
        if not self.further:
            return _Seen(_near(starts, window, self.radius), np.empty((0, 0)))
        at = min(window.start, len(window.ids) - 1)  # an empty allele stands for the base after it
        before = range(max(0, window.start - self.radius), window.start)
        after = range(window.end, min(len(window.ids), window.end + self.radius))
        # hidden states are those of the encoders, then the trunk's, spread to bases
        vectors = output.hidden_states[len(output.boundaries)][row, [at, *before, at, *after]]
        return _Seen(_near(starts, window, self.radius), vectors.double().cpu().numpy())

    def _likelihood(self, table: NDArray[np.float64], true: Ids) -> float:
        known = np.isin(true, self._bases)  # an extended allele may hold an N, which adds nothing
        return float(table[known, np.searchsorted(self._bases, true[known])].sum())

    @property
    def _bases(self) -> list[int]:
        return [self.exported.ids[letter] for letter in "ACGT"]


class _Windows:
    """Windows to run, each distinct one once."""

    def __init__(self) -> None:
        self.windows: list[_Haplotype] = []
        self._numbers: dict[tuple[bytes, int, int], int] = {}

    def number(self, window: _Haplotype) -> int:
        """The place of a window among the windows; a new one is added."""
        key = (window.ids.tobytes(), window.start, window.end)
        number = self._numbers.setdefault(key, len(self.windows))
        if number == len(self.windows):
            self.windows.append(window)
        return number


def _spans(haplotype: _Haplotype, count: int) -> list[tuple[int, int]]:
    """Spans of `count` bases that hold the allele: the allele alone, or extended to the left and to the right."""
    missing = count - (haplotype.end - haplotype.start)
    if not missing:
        return [(haplotype.start, haplotype.end)]
    sides = [(haplotype.start - missing, haplotype.end), (haplotype.start, haplotype.end + missing)]
    return [(start, end) for start, end in sides if start >= 0 and end <= len(haplotype.ids)]


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


def _distances(reference: Sequence[_Seen], alternative: Sequence[_Seen]) -> list[float]:
    """Cosine distance of the trunk's vectors at the alleles and around them, then L2 distance; means over strands."""
    each = []
    for ours, theirs in zip(reference, alternative, strict=True):
        lengths = [np.linalg.norm(vectors, axis=1) for vectors in (ours.vectors, theirs.vectors)]
        cosine = 1 - (ours.vectors * theirs.vectors).sum(1) / np.maximum(lengths[0] * lengths[1], _TINY)
        for distance in (cosine, np.linalg.norm(ours.vectors - theirs.vectors, axis=1)):
            each.append((float(distance[0]), float(distance[1:].mean())))
    means = np.reshape(each, (len(reference), -1)).mean(axis=0)
    return [float(value) for value in means]

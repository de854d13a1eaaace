"""Scores of a variant: the log-likelihood ratio of its alleles, and how far it moves chunk boundaries.

Likelihood ratio: sum over the masked bases of log P(base | rest of the window), alternative minus reference, natural
logarithm, P over A, C, G, T, averaged over both strands. All bases of an allele are masked at once. Both alleles are
scored over the same number of bases: the shorter one is extended by its neighbours, once to the left and once to the
right, and the two values are averaged.

Boundary shift, per stage: 1 - Jaccard index of the cuts of the two haplotypes outside the alleles, within a radius,
averaged over both strands; 0 is no change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dnachunker.downstream.exported import Exported, batches

from .alleles import Alleles, Fetch

_BATCH_BASES = 32_768

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class VariantScore:
    """Log-likelihood ratio in nats, and boundary shifts per stage in [0, 1]."""

    likelihood_ratio: float
    shifts: tuple[float, ...]


@dataclass(frozen=True)
class _Haplotype:
    """A window that has one allele at [start, end)."""

    ids: Ids
    start: int
    end: int


def score_variants(
    exported: Exported,
    network: nn.Module,
    variants: Sequence[tuple[Alleles, Fetch, int]],
    *,
    context: int,
    radius: int,
) -> list[VariantScore]:
    """Scores of variants.

    Args:
        network: `exported.network("masked")`.
        variants: alleles, the letters of their contig, and its length.
        context: bases of a window, the alleles in the middle; fewer at a contig's end.
        radius: bases to either side of the alleles in which cuts are compared.
    """
    jobs: list[Ids] = []  # sequences to run
    reads: list[tuple[int, int] | None] = []  # for each sequence, its masked span; None to read its boundaries
    plans = []
    for alleles, fetch, length in variants:
        flank = (context - alleles.longest) // 2
        left = fetch(max(0, alleles.start - flank), alleles.start)
        right = fetch(alleles.end, min(length, alleles.end + flank))
        pair = []
        for allele in (alleles.reference, alleles.alternative):
            ids = exported.encode(left + allele + right)
            pair.append(_Haplotype(ids, len(left), len(left) + len(allele)))
        first = len(jobs)
        spans = [_spans(haplotype, alleles.longest) for haplotype in pair]
        for haplotype, ours in zip(pair, spans, strict=True):
            for span in [*ours, None]:
                for ids in (haplotype.ids, exported.reverse_complement(haplotype.ids)):
                    turned = span if ids is haplotype.ids or span is None else (len(ids) - span[1], len(ids) - span[0])
                    jobs.append(ids)
                    reads.append(turned)
        plans.append((first, pair, spans))
    found = _run(exported, network, jobs, reads)
    return [_combine(found[first:], pair, spans, radius) for first, pair, spans in plans]


def _spans(haplotype: _Haplotype, count: int) -> list[tuple[int, int]]:
    """Spans of `count` bases that hold the allele: the allele alone, or extended to the left and to the right."""
    missing = count - (haplotype.end - haplotype.start)
    if not missing:
        return [(haplotype.start, haplotype.end)]
    sides = [(haplotype.start - missing, haplotype.end), (haplotype.start, haplotype.end + missing)]
    return [(start, end) for start, end in sides if start >= 0 and end <= len(haplotype.ids)]


def _run(exported: Exported, network: nn.Module, jobs: Sequence[Ids], reads: Sequence[Any]) -> list[Any]:
    """For each job, the log-likelihood of its masked bases, or its boundaries at each stage."""
    bases = [exported.ids[letter] for letter in "ACGT"]
    size = max(1, _BATCH_BASES // max(map(len, jobs), default=1))
    found: list[Any] = []
    for part in batches(len(jobs), size):
        masked = []
        for ids, span in zip(jobs[part], reads[part], strict=True):
            ids = ids.copy()
            if span is not None:
                ids[slice(*span)] = exported.ids["mask"]
            masked.append(ids)
        tokens, mask = exported.batch(masked)
        with torch.no_grad():
            output = network(input_ids=tokens, attention_mask=mask)
        logits = output.logits[..., bases].double().log_softmax(-1).cpu().numpy()
        for row, (ids, span) in enumerate(zip(jobs[part], reads[part], strict=True)):
            if span is None:
                cuts = [stage[row, : len(ids)].cpu().numpy() for stage in output.boundaries]
                found.append([np.flatnonzero(stage[1:]) + 1 for stage in cuts])  # the first base always starts a chunk
                continue
            true = ids[slice(*span)]
            column = np.searchsorted(bases, true)
            # an extended allele may hold an N, which adds nothing
            known = np.isin(true, bases)
            values = logits[row, np.arange(*span), np.minimum(column, 3)]
            found.append(float(values[known].sum()))
    return found


def _combine(
    found: Sequence[Any], pair: Sequence[_Haplotype], spans: Sequence[Sequence[tuple[int, int]]], radius: int
) -> VariantScore:
    likelihoods, cuts = [], []
    at = 0
    for ours in spans:
        count = 2 * len(ours)
        likelihoods.append(float(np.mean(found[at : at + count])))
        cuts.append(found[at + count : at + count + 2])
        at += count + 2
    shifts = []
    for stage in range(len(cuts[0][0])):
        each = []
        for strand in range(2):
            near = [_near(c[strand][stage], haplotype, strand, radius) for c, haplotype in zip(cuts, pair, strict=True)]
            union = near[0] | near[1]
            each.append(1 - len(near[0] & near[1]) / len(union) if union else 0.0)
        shifts.append(float(np.mean(each)))
    return VariantScore(likelihoods[1] - likelihoods[0], tuple(shifts))


def _near(cuts: Ids, haplotype: _Haplotype, strand: int, radius: int) -> set[tuple[str, int]]:
    """Boundaries outside the allele, by side and distance from it."""
    length = len(haplotype.ids)
    start, end = haplotype.start, haplotype.end
    if strand:
        start, end = length - end, length - start
    left = {("before", int(start - cut)) for cut in cuts if start - radius <= cut <= start}
    return left | {("after", int(cut - end)) for cut in cuts if end <= cut <= end + radius}

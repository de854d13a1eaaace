"""A number for every base of a genome, from a bigWig: what the networks learn, the k-mer baseline, and scores."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.studies.track import read_track
from dnachunker.foundations.failures import BadInput

from .scores import stretches

FLANK = 3  # bases on either side that the k-mer baseline sees
TENTHS = 10
_PIECE = 2**20  # bases that are summed at a time, to bound memory
_LISTED = 5  # contigs in a message


@dataclass(frozen=True)
class TrackValues:
    """Numbers of all bases of a genome, less their mean over the training regions, in standard deviations there.

    Attributes:
        by_contig: contig -> (length,) float32, NaN where there is no number.
        mean, spread: of the training regions, of the numbers as they are or of log(1 + number).
    """

    by_contig: Mapping[str, NDArray[np.float32]]
    mean: float
    spread: float
    classes = ("value",)
    missing = np.nan

    @property
    def opposite(self) -> NDArray[np.int64]:
        """A number is the same on the other strand."""
        return np.zeros(1, np.int64)

    def read(self, region: Region) -> NDArray[np.float32]:
        """Numbers (L,) of a region."""
        return self.by_contig[region.contig][region.start : region.end]

    def turned(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Numbers (L,) of a region when the other strand is read."""
        return values[::-1]


def read_values(
    path: Path, lengths: Mapping[str, int], regions: Mapping[str, Sequence[Region]], *, log: bool
) -> TrackValues:
    """The numbers of a bigWig.

    Args:
        lengths: contig -> length in bases.
        regions: of "train", "validation" and "test".
        log: take log(1 + number).

    Raises:
        BadInput: as `read_track`; a number below 0 where `log` is asked for; the regions of one use have no two
            numbers that differ.
    """
    whole = [Region(contig, 0, length) for contig, length in lengths.items()]
    read = [values.astype(np.float32) for values in read_track(path, whole)]
    if log:
        if min(float(np.nanmin(values, initial=0.0)) for values in read) < 0:
            raise BadInput(f"{path}: has numbers below 0, of which log_values=true takes no logarithm; leave it out")
        for values in read:
            np.log1p(values, out=values)
    found = dict(zip(lengths, read, strict=True))
    for use, chosen in regions.items():
        extremes = [bound for part in _known(found, chosen) for bound in (part.min(), part.max())]
        if not extremes or min(extremes) == max(extremes):
            contigs = list(dict.fromkeys(region.contig for region in chosen))
            named = ", ".join(contigs[:_LISTED] + ["..."] * (len(contigs) > _LISTED))
            raise BadInput(
                f"{path}: no two numbers in the {use} regions differ, which lie on {named}; choose other regions with "
                f"--{use}"
            )
    count = sum(len(part) for part in _known(found, regions["train"]))
    mean = float(sum(part.sum() for part in _known(found, regions["train"])) / count)
    spread = math.sqrt(sum(((part - mean) ** 2).sum() for part in _known(found, regions["train"])) / count)
    for values in read:  # in place: a genome is large
        values -= mean
        values /= spread
    return TrackValues(found, mean, spread)


def _known(by_contig: Mapping[str, NDArray[np.float32]], regions: Iterable[Region]) -> Iterator[NDArray[np.float64]]:
    """The finite numbers of regions, a piece (n,) at a time; n is at least 1."""
    for region in regions:
        for start in range(region.start, region.end, _PIECE):
            part = by_contig[region.contig][start : min(start + _PIECE, region.end)]
            if len(part := part[np.isfinite(part)]):
                yield part.astype(np.float64)


def kmer_means(
    trained: Iterable[tuple[NDArray[np.uint8], NDArray[np.float32]]], wanted: Iterable[NDArray[np.uint8]]
) -> tuple[NDArray[np.float32], int]:
    """The mean number of the training bases with the same letter and the same three bases on either side.

    Args:
        trained: codes (L,) of regions, A, C, G, T as 0 to 3 and others as 4, and their numbers (L,); one region at a
            time is held.
        wanted: codes of the regions to predict.

    Returns:
        (L,) of these regions, one after the other, 0 (the overall mean) where no training base has this
        word; and the number of means.
    """
    size = 4 ** (2 * FLANK + 1)
    sums, counts = np.zeros(size + 1), np.zeros(size + 1)
    for codes, values in trained:
        for strand, numbers in ((codes, values), (np.where(codes < 4, 3 - codes, 4)[::-1], values[::-1])):
            words = _words(strand)
            for start in range(0, len(words), _PIECE):
                part = numbers[start : start + _PIECE]
                known = np.isfinite(part)
                found = words[start : start + _PIECE][known]
                sums += np.bincount(found, part[known], size + 1)
                counts += np.bincount(found, minlength=size + 1)
    means = (sums / np.maximum(counts, 1)).astype(np.float32)  # 0 where there is no training base
    means[size] = 0.0
    return np.concatenate([means[_words(codes)] for codes in wanted]), size


def score_values(
    truth: NDArray[np.float32], predicted: NDArray[np.float32], lengths: Sequence[int], *, resamples: int
) -> dict[str, Any]:
    """Pearson's r with a 95 % bootstrap interval over stretches of 10,000 bases, Spearman's r, the share of variance.

    Args:
        truth: (L,) of all test regions, one after the other; NaN where nothing is scored.
        predicted: (L,), finite.
        lengths: bases of each region.
    """
    table = np.stack([_moments(truth[part], predicted[part]) for part in stretches(lengths)])
    rows = np.random.default_rng(0).integers(0, len(table), (resamples, len(table)))
    resampled = [pearson_of(table[drawn].sum(0)) for drawn in rows]
    known = np.isfinite(truth)
    ours, theirs = truth[known].astype(np.float64), predicted[known].astype(np.float64)
    tenths = np.array_split(ours[np.argsort(theirs, kind="stable")], TENTHS)
    return {
        "bases": len(ours),
        "pearson": pearson_of(table.sum(0)),
        "pearson_interval": [float(value) for value in np.quantile(resampled, [0.025, 0.975])],
        "spearman": pearson_of(_moments(_ranks(ours), _ranks(theirs))),
        "variance_explained": float(1 - ((ours - theirs) ** 2).mean() / ours.var()) if ours.var() else 0.0,
        "mean_of_tenths": [float(part.mean()) for part in tenths if len(part)],
    }


def pearson(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Pearson's r over the bases (L,) where `truth` is finite; 0 where either does not vary."""
    return pearson_of(_moments(truth, predicted))


def pearson_of(sums: NDArray[np.float64]) -> float:
    """Pearson's r from the sums that `_moments` gives."""
    n, x, y, xx, yy, xy = sums
    spread = np.sqrt(max(n * xx - x * x, 0.0) * max(n * yy - y * y, 0.0))
    return float((n * xy - x * y) / spread) if spread > 0 else 0.0


def _moments(truth: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.float64]:
    known = np.isfinite(truth)
    x, y = truth[known].astype(np.float64), predicted[known].astype(np.float64)
    return np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(L,) ranks; equal numbers have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place], np.float64)


def _words(codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(L,) numbers of the words around each base; 4^7 where a word has another letter than A, C, G, T, or an end."""
    width = 2 * FLANK + 1
    padded = np.pad(codes, FLANK, constant_values=4)
    words, known = np.zeros(len(codes), np.int32), np.ones(len(codes), bool)
    for first in range(width):
        letters = padded[first : first + len(codes)]
        words *= 4
        words += letters
        known &= letters < 4
    words[~known] = 4**width
    return words

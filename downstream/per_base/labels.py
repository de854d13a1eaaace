"""The class of every base of a genome, painted from annotated intervals by one list of priorities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.annotations import read_features
from dnachunker.foundations.failures import BadInput

from .config import AnnotateConfig

IGNORED = -100  # label of a base that is neither trained on nor scored; the value that torch's losses leave out
_STRANDS = {"+": 1, "-": 2}
_BOTH = 3  # also for features without a strand


@dataclass(frozen=True)
class BaseLabels:
    """Classes of all bases of a genome.

    Attributes:
        classes: names; the background is the last.
        opposite: (classes,) int64, the class that a base has when the other strand is read.
        by_contig: contig -> (length,) int8, indices into `classes`, or IGNORED.
    """

    classes: tuple[str, ...]
    opposite: NDArray[np.int64]
    by_contig: Mapping[str, NDArray[np.int8]]
    missing = IGNORED

    def read(self, region: Region) -> NDArray[np.int64]:
        """Labels (L,) of a region."""
        return self.by_contig[region.contig][region.start : region.end].astype(np.int64)

    def turned(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels (L,) of a region when the other strand is read."""
        swapped = self.opposite[np.maximum(labels, 0)]
        return np.where(labels == IGNORED, IGNORED, swapped)[::-1]

    def counts(self, regions: Sequence[Region]) -> NDArray[np.int64]:
        """(classes,) bases of each class in these regions."""
        found = np.zeros(len(self.classes), np.int64)
        for region in regions:
            labels = self.read(region)
            found += np.bincount(labels[labels != IGNORED], minlength=len(found))
        return found


def read_annotation(paths: Sequence[Path], lengths: Mapping[str, int], config: AnnotateConfig) -> list[Feature]:
    """The features of the config's kinds in all files.

    Args:
        lengths: contig -> length in bases.

    Raises:
        BadInput: as `read_features`: not a file of intervals, no contig in common, no feature of these kinds.
    """
    kinds = [kind for level in config.classes for kind in level.kinds]
    return [feature for path in paths for feature in read_features(path, lengths, (), kinds, may_be_empty=False)]


def class_names(config: AnnotateConfig) -> tuple[str, ...]:
    """The classes in order, without those that the config ignores and without strands; the background is the last.

    Raises:
        BadInput: a key of `ignore` is no class.
    """
    listed = dict.fromkeys(level.name for level in config.classes if level.name not in (None, config.background))
    if unknown := [name for name in config.ignore if name not in listed]:
        raise BadInput(f"ignore: {unknown[0]!r} is no class; it may name {', '.join(map(str, listed))}")
    return (*(str(name) for name in listed if name not in config.ignore), config.background)


def paint(
    features: Sequence[Feature], lengths: Mapping[str, int], config: AnnotateConfig, *, strands: bool
) -> BaseLabels:
    """Labels of every contig.

    Where features of one level lie on both strands, or have none, the base is ignored if `strands` asks for a class on
    each strand. Class 2n is then class n on the forward strand and 2n + 1 the same on the reverse strand.
    """
    names = class_names(config)
    background = len(names) - 1
    per_class = 2 if strands else 1
    levels = []
    for level in config.classes:
        numbers = np.full(4, IGNORED, np.int8)  # by strand: none, forward, reverse, both
        if level.name is not None and level.name not in config.ignore:
            first = per_class * names.index(level.name)
            numbers[1:] = (first, first + 1, IGNORED) if strands else first
        levels.append((frozenset(level.kinds), numbers))
    by_contig: dict[str, list[Feature]] = {contig: [] for contig in lengths}
    for feature in features:
        by_contig[feature.contig].append(feature)
    painted = {
        contig: _paint_contig(np.full(lengths[contig], per_class * background, np.int8), found, levels)
        for contig, found in by_contig.items()
    }
    if not strands:
        return BaseLabels(names, np.arange(len(names)), painted)
    listed = (*(f"{name}{strand}" for name in names[:-1] for strand in "+-"), names[-1])
    opposite = np.array([*(number ^ 1 for number in range(2 * background)), 2 * background])
    return BaseLabels(listed, opposite, painted)


def _paint_contig(
    labels: NDArray[np.int8], features: Sequence[Feature], levels: Sequence[tuple[frozenset[str], NDArray[np.int8]]]
) -> NDArray[np.int8]:
    for kinds, numbers in reversed(levels):  # the first level is painted last, over all others
        strands = np.zeros(len(labels), np.uint8)
        for feature in features:
            if feature.kind in kinds:
                strands[feature.start : feature.end] |= _STRANDS.get(feature.strand, _BOTH)
        covered = strands > 0
        labels[covered] = numbers[strands[covered]]
    return labels

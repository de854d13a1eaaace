"""The bases that are trained on, validated on and tested on, with their labels; and windows of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.exported import Exported
from dnachunker.downstream.regions import choose_regions
from dnachunker.foundations.failures import BadInput

from .labels import BaseLabels
from .track_values import TrackValues


@dataclass(frozen=True)
class Split:
    """Disjoint regions of a genome by use."""

    train: tuple[Region, ...]
    validation: tuple[Region, ...]
    test: tuple[Region, ...]


@dataclass(frozen=True)
class LabelledGenome:
    """A genome as a model reads it, and the class, or the number, of every base.

    Attributes:
        window: bases that a network reads at a time; flank: bases at each end of a window that are context only.
    """

    genome: Genome
    exported: Exported
    labels: BaseLabels | TrackValues
    window: int
    flank: int

    def read(self, region: Region) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Token ids (L,) and labels (L,) of a region; N has no label."""
        ids = self.exported.encode(self.genome.fetch(region.contig, region.start, region.end))
        return ids, np.where(ids == self.exported.ids["N"], self.labels.missing, self.labels.read(region))

    def read_labels(self, regions: Sequence[Region]) -> NDArray[Any]:
        """Labels of several regions, one after the other."""
        return np.concatenate([self.read(region)[1] for region in regions])


def split_genome(genome: Genome, train: Sequence[str], validation: Sequence[str], test: Sequence[str]) -> Split:
    """The regions named on the command line.

    Args:
        train: empty for all bases that are not held out; regions that are held out are taken away.
        validation, test: as in `choose_regions`; not empty.

    Raises:
        BadInput: no such region, a base in both `validation` and `test`, or nothing left to train on.
    """
    held = [choose_regions(genome, texts) for texts in (validation, test)]
    for first in held[0]:
        for second in held[1]:
            if _overlap(first, second):
                raise BadInput(f"--validation {first} and --test {second} have bases in common; name disjoint regions")
    trained = choose_regions(genome, train)
    for gone in (*held[0], *held[1]):
        trained = [part for region in trained for part in _without(region, gone)]
    if not trained:
        raise BadInput(f"{genome.path}: --validation and --test leave nothing to train on; hold out fewer regions")
    return Split(tuple(trained), tuple(held[0]), tuple(held[1]))


def draw_windows(
    regions: Sequence[Region], window: int, count: int, rng: np.random.Generator
) -> list[tuple[Region, bool]]:
    """Windows within the regions, each place as likely as the others, and whether to read the other strand of each.

    A region that is shorter than `window` is taken whole.
    """
    places = np.array([max(1, region.length - window + 1) for region in regions])
    chosen = rng.choice(len(regions), count, p=places / places.sum())
    offsets, flips = rng.random(count), rng.random(count) < 0.5
    found = []
    for number, share, flip in zip(chosen, offsets, flips, strict=True):
        region = regions[number]
        start = region.start + int(share * places[number])
        found.append((Region(region.contig, start, min(start + window, region.end)), bool(flip)))
    return found


def _overlap(first: Region, second: Region) -> bool:
    return first.contig == second.contig and first.start < second.end and second.start < first.end


def _without(region: Region, gone: Region) -> list[Region]:
    """The parts of a region that are not in another."""
    if not _overlap(region, gone):
        return [region]
    parts = (Region(region.contig, region.start, gone.start), Region(region.contig, gone.end, region.end))
    return [part for part in parts if part.start < part.end]

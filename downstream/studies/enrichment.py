"""Whether tokens start at the borders of features: density of token starts around borders, with permutations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.annotations import FeatureIndex

from .cutters import Cuts
from .rotations import Intervals, Rotated, draw_shifts, two_sided_p


def enrichment_table(
    regions: Sequence[Region],
    cuts: Sequence[Cuts],
    features: Sequence[Feature],
    *,
    radius: int,
    permutations: int,
    seed: int,
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], NDArray[np.float64]]]:
    """Rows by segmentation, kind of feature and side, and profiles of the density around the border.

    A border is the first base of a feature (`5'`) or the base after its last (`3'`); on the minus strand the two are
    exchanged, and strand `.` counts as plus. Cuts within `radius` bases of a border count. A permutation rotates the
    cuts within each region by a random amount, which keeps the lengths of tokens. p is the share of permutations that
    are as far from the expectation as the cuts are (two-sided).

    Returns:
        rows; and by (segmentation, "kind side") the density at distances -radius..radius over that of the regions.
        Distances increase in the direction of transcription.
    """
    borders = _borders(regions, features)
    shifts = draw_shifts([region.length for region in regions], permutations, seed)
    rows, profiles = [], {}
    for segmentation in cuts[0]:
        starts = [one[segmentation] for one in cuts]
        rotated = Rotated.of(starts, shifts)
        overall = sum(part.sum() for part in starts) / sum(len(part) for part in starts)
        for (kind, side), places in borders.items():
            profile, count = _profile(starts, places, radius)
            if not count:
                continue
            inside = rotated.inside([_around(borders, region.length, radius)
                                     for borders, region in zip(places, regions, strict=True)])  # fmt: skip
            near, *null = inside / (count * (2 * radius + 1))
            expected = float(np.mean(null))
            rows.append({
                "tokens": segmentation, "feature": kind, "border": side, "borders": count,
                "cuts per base near": float(near), "expected": expected,
                "enrichment": float(near / expected) if expected else float("nan"),
                "p": two_sided_p(float(near), np.array(null)),
            })  # fmt: skip
            profiles[segmentation, f"{kind} {side}"] = profile / overall
    return rows, profiles


_Places = list[list[tuple[int, int]]]  # by region: offset of a border, and its strand, 1 or -1


def _borders(regions: Sequence[Region], features: Sequence[Feature]) -> dict[tuple[str, str], _Places]:
    found: dict[tuple[str, str], _Places] = {}
    index = FeatureIndex(features)
    for number, region in enumerate(regions):
        for feature in index.overlapping(region):
            minus = feature.strand == "-"
            ends = {"5'": feature.end if minus else feature.start, "3'": feature.start if minus else feature.end}
            for side, at in ends.items():
                if 0 < at - region.start < region.length:
                    places = found.setdefault((feature.kind, side), [[] for _ in regions])
                    places[number].append((at - region.start, -1 if minus else 1))
    return found


def _profile(starts: Sequence[NDArray[np.bool_]], places: _Places, radius: int) -> tuple[NDArray[np.float64], int]:
    """Cuts per border at distances -radius..radius, and the number of borders; not those near a region's end."""
    offsets = np.arange(-radius, radius + 1)
    total, count = np.zeros(len(offsets)), 0
    for part, borders in zip(starts, places, strict=True):
        inner = [(at, direction) for at, direction in borders if radius <= at < len(part) - radius]
        if inner:
            at, direction = np.array(inner).T
            total += part[at[:, None] + direction[:, None] * offsets].sum(0)
            count += len(inner)
    return total / max(1, count), count


def _around(borders: Sequence[tuple[int, int]], length: int, radius: int) -> Intervals:
    """The bases within `radius` of each border that `_profile` counts."""
    at = np.array([at for at, _ in borders if radius <= at < length - radius], np.int64)
    return np.stack([at - radius, at + radius + 1], axis=1)

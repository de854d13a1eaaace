"""Whether tokens start at the borders of features: density of token starts around borders, with permutations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.annotations import FeatureIndex

from .cutters import Cuts


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
    rows, profiles = [], {}
    for segmentation in cuts[0]:
        starts = [one[segmentation] for one in cuts]
        overall = sum(part.sum() for part in starts) / sum(len(part) for part in starts)
        for (kind, side), places in borders.items():
            profile, count = _profile(starts, places, radius)
            if not count:
                continue
            rng = np.random.default_rng(seed)
            shifts = [[int(rng.integers(1, max(2, len(part)))) for part in starts] for _ in range(permutations)]
            null = _rotated(starts, places, radius, shifts) / count
            near, expected = float(profile.mean()), float(np.mean(null))
            as_far = int((np.abs(null - expected) >= abs(near - expected) - 1e-12).sum())
            rows.append({
                "tokens": segmentation, "feature": kind, "border": side, "borders": count, "cuts per base near": near,
                "expected": expected, "enrichment": near / expected if expected else float("nan"),
                "p": (1 + as_far) / (1 + permutations),
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


def _rotated(
    starts: Sequence[NDArray[np.bool_]], places: _Places, radius: int, shifts: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """For each rotation, the mean over borders of `_profile` times the number of borders.

    The cuts around a border after a rotation are those around another place before it, so one pass that counts the
    cuts around every place serves all rotations.
    """
    total = np.zeros(len(shifts))
    for number, (part, borders) in enumerate(zip(starts, places, strict=True)):
        at = np.array([at for at, _ in borders if radius <= at < len(part) - radius], np.int64)
        if len(at):
            sums = np.cumsum(np.pad(part.astype(np.int64), (radius + 1, radius), mode="wrap"))
            around = sums[2 * radius + 1 :] - sums[: -2 * radius - 1]
            total += [around[(at - shift[number]) % len(part)].sum() for shift in shifts]
    return total / (2 * radius + 1)

"""Do tokens begin at the borders of features: boundary density around feature starts and ends, with permutations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.downstream.annotations import Feature
from dnachunker.downstream.fasta import Region

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
    """Rows by way of cutting, kind of feature and side, and profiles of the density around the border.

    A border is the first base of a feature (`5'`) or the one after its last (`3'`), the other way round on the minus
    strand; `.` counts as plus. Cuts within `radius` of a border count. p: how often cuts rotated within their region
    by a random amount are as far from the expectation (two-sided); rotation keeps the lengths of tokens.

    Returns:
        rows; and by (way, "kind side") the density at distances -radius..radius over that of the region, towards the
        feature's inside for 5' and its outside for 3'.
    """
    borders = _borders(regions, features)
    rows, profiles = [], {}
    for way in cuts[0]:
        starts = [one[way] for one in cuts]
        overall = sum(part.sum() for part in starts) / sum(len(part) for part in starts)
        for (kind, side), places in borders.items():
            profile, count = _profile(starts, places, radius)
            if not count:
                continue
            rng = np.random.default_rng(seed)
            null = []
            for _ in range(permutations):
                turned = [np.roll(part, int(rng.integers(1, max(2, len(part))))) for part in starts]
                null.append(_profile(turned, places, radius)[0].mean())
            near, expected = float(profile.mean()), float(np.mean(null))
            as_far = int((np.abs(np.array(null) - expected) >= abs(near - expected) - 1e-12).sum())
            rows.append({
                "tokens": way, "feature": kind, "border": side, "borders": count, "cuts per base near": near,
                "expected": expected, "enrichment": near / expected if expected else float("nan"),
                "p": (1 + as_far) / (1 + permutations),
            })  # fmt: skip
            profiles[way, f"{kind} {side}"] = profile / overall
    return rows, profiles


_Places = list[list[tuple[int, int]]]  # by region: offset of the border, and direction of transcription


def _borders(regions: Sequence[Region], features: Sequence[Feature]) -> dict[tuple[str, str], _Places]:
    found: dict[tuple[str, str], _Places] = {}
    for feature in features:
        for number, region in enumerate(regions):
            if feature.contig != region.contig:
                continue
            minus = feature.strand == "-"
            ends = {"5'": feature.end if minus else feature.start, "3'": feature.start if minus else feature.end}
            for side, at in ends.items():
                if 0 < at - region.start < region.length:
                    places = found.setdefault((feature.kind, side), [[] for _ in regions])
                    places[number].append((at - region.start, -1 if minus else 1))
    return found


def _profile(starts: Sequence[NDArray[np.bool_]], places: _Places, radius: int) -> tuple[NDArray[np.float64], int]:
    """Mean of cuts at distances -radius..radius of a border, over the borders that far from the region's ends."""
    offsets = np.arange(-radius, radius + 1)
    total, count = np.zeros(len(offsets)), 0
    for part, borders in zip(starts, places, strict=True):
        inner = [(at, way) for at, way in borders if radius <= at < len(part) - radius]
        if inner:
            at, way = np.array(inner).T
            total += part[at[:, None] + way[:, None] * offsets].sum(0)
            count += len(inner)
    return total / max(1, count), count

"""Length of tokens by class of annotation, such as exons, repeats and elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.annotations import FeatureIndex
from dnachunker.foundations.failures import BadInput

from .cutters import Cuts
from .rotations import Intervals, Rotated, draw_shifts

ELSEWHERE = "elsewhere"


def length_table(
    regions: Sequence[Region],
    letters: Sequence[str],
    cuts: Sequence[Cuts],
    features: Sequence[Feature],
    *,
    permutations: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each segmentation and each class of bases.

    Classes are the kinds of features (a base may be in several), `soft-masked`, and `elsewhere`: in no other class.
    A token belongs to the class of its first base. Bases per token is the number of bases of a class over the number
    of tokens that start in it, so every base counts once. The ratio is to `elsewhere`. A permutation rotates the cuts
    within each region by a random amount; p is the share of permutations with a ratio as far from 1 (two-sided, on
    the log scale).

    Raises:
        BadInput: every base is in an annotated class.
    """
    classes = _class_masks(regions, letters, features)
    if ELSEWHERE not in classes:
        raise BadInput("lengths: the annotations cover every base of these regions, so no base is left to compare with")
    intervals = {name: [_intervals(mask) for mask in masks] for name, masks in classes.items()}
    bases = {name: sum(int(mask.sum()) for mask in masks) for name, masks in classes.items()}
    shifts = draw_shifts([region.length for region in regions], permutations, seed)
    rows = []
    for segmentation in cuts[0]:
        starts = [one[segmentation] for one in cuts]
        rotated = Rotated.of(starts, shifts)
        lengths = [_length_of_token(part) for part in starts]
        per_token = {name: bases[name] / np.maximum(1, rotated.inside(parts)) for name, parts in intervals.items()}
        for name, masks in classes.items():
            inside = np.concatenate(
                [length[mask[start]] for length, mask, start in zip(lengths, masks, starts, strict=True)]
            )
            ratios = np.log(per_token[name] / per_token[ELSEWHERE])
            as_far = int((np.abs(ratios[1:]) >= abs(ratios[0]) - 1e-12).sum())
            rows.append({
                "tokens": segmentation, "class": name, "bases": bases[name], "count": len(inside),
                "bases per token": float(per_token[name][0]),
                "median length": float(np.median(inside)) if len(inside) else float("nan"),
                "ratio to elsewhere": float(np.exp(ratios[0])),
                "p": (1 + as_far) / (1 + permutations) if name != ELSEWHERE else 1.0,
            })  # fmt: skip
    return rows


def _class_masks(
    regions: Sequence[Region], letters: Sequence[str], features: Sequence[Feature]
) -> dict[str, list[NDArray[np.bool_]]]:
    index = FeatureIndex(features)
    masks = {kind: [np.zeros(region.length, bool) for region in regions] for kind in index.kinds}
    for number, region in enumerate(regions):
        for feature in index.overlapping(region):
            inside = slice(max(0, feature.start - region.start), max(0, feature.end - region.start))
            masks[feature.kind][number][inside] = True
    lower = [np.frombuffer(text.encode(), np.uint8) >= ord("a") for text in letters]
    if any(mask.any() for mask in lower):
        masks["soft-masked"] = lower
    covered = [np.zeros(region.length, bool) for region in regions]
    for parts in masks.values():
        for whole, part in zip(covered, parts, strict=True):
            whole |= part
    masks[ELSEWHERE] = [~part for part in covered]
    return {name: parts for name, parts in masks.items() if any(part.any() for part in parts)}


def _intervals(mask: NDArray[np.bool_]) -> Intervals:
    return np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)


def _length_of_token(starts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the tokens, in order of their starts."""
    return np.diff(np.append(np.flatnonzero(starts), len(starts)))

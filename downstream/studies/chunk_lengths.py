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
    rows = []
    for segmentation in cuts[0]:
        starts = [one[segmentation] for one in cuts]
        lengths = [_length_of_token(part) for part in starts]
        rng = np.random.default_rng(seed)
        rolls = [[int(rng.integers(1, max(2, region.length))) for region in regions] for _ in range(permutations)]
        observed = {name: _bases_per_token(masks, starts) for name, masks in classes.items()}
        null: dict[str, list[float]] = {name: [] for name in classes}
        for shifts in rolls:
            turned = [np.roll(part, shift) for part, shift in zip(starts, shifts, strict=True)]
            found = {name: _bases_per_token(masks, turned) for name, masks in classes.items()}
            for name, value in found.items():
                null[name].append(np.log(value / found[ELSEWHERE]))
        for name, masks in classes.items():
            inside = np.concatenate(
                [length[mask[start]] for length, mask, start in zip(lengths, masks, starts, strict=True)]
            )
            distance = abs(np.log(observed[name] / observed[ELSEWHERE]))
            as_far = int((np.abs(null[name]) >= distance - 1e-12).sum())
            rows.append({
                "tokens": segmentation, "class": name, "bases": int(sum(mask.sum() for mask in masks)),
                "count": len(inside),
                "bases per token": float(observed[name]),
                "median length": float(np.median(inside)) if len(inside) else float("nan"),
                "ratio to elsewhere": float(observed[name] / observed[ELSEWHERE]),
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


def _bases_per_token(masks: Sequence[NDArray[np.bool_]], starts: Sequence[NDArray[np.bool_]]) -> float:
    tokens = sum(int((mask & start).sum()) for mask, start in zip(masks, starts, strict=True))
    return sum(int(mask.sum()) for mask in masks) / max(1, tokens)


def _length_of_token(starts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the tokens, in order of their starts."""
    return np.diff(np.append(np.flatnonzero(starts), len(starts)))

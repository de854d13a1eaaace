"""How much of a segmentation stays after a small change of the sequence: an SNV, an indel, a shift by one base."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cutters import Cutter, cut_all

_NEAR = 32  # bases around a change; cuts farther away need not move
CHANGES = ("SNV", "insertion", "deletion", "shift")


def stability_table(windows: Sequence[str], cutters: Sequence[Cutter], *, seed: int) -> list[dict[str, Any]]:
    """A row for each change and segmentation: Jaccard index of the cuts before and after, mean over windows.

    SNV, insertion and deletion change one base in the middle of each window; shift drops its first base. Cuts are
    compared in the coordinates of the original. A window's first base does not count, because every segmentation
    starts a token there. `beyond` leaves out cuts within 32 bases of the change.
    """
    rng = np.random.default_rng(seed)
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for letters in windows:
        original = cut_all(cutters, letters)
        middle = len(letters) // 2
        here = letters[middle].upper()
        other = str(rng.choice([base for base in "ACGT" if base != here]))
        changed = {
            "SNV": letters[:middle] + other + letters[middle + 1 :],
            "insertion": letters[:middle] + other + letters[middle:],
            "deletion": letters[:middle] + letters[middle + 1 :],
            "shift": letters[1:],
        }
        for change, text in changed.items():
            for segmentation, starts in cut_all(cutters, text).items():
                after = _in_original(np.flatnonzero(starts), change, middle)
                before = {int(at) for at in np.flatnonzero(original[segmentation])}
                # every segmentation starts a token at the window's first base, and after a shift at the next
                before, after = before - {0, 1}, after - {0, 1}
                at = 0 if change == "shift" else middle
                far = [{cut for cut in cuts if abs(cut - at) > _NEAR} for cuts in (before, after)]
                scores.setdefault((change, segmentation), []).append((_jaccard(before, after), _jaccard(*far)))
    rows = []
    for (change, segmentation), values in scores.items():
        table = np.array(values)
        rows.append({
            "change": change, "tokens": segmentation, "windows": len(values), "Jaccard": float(table[:, 0].mean()),
            "sd": float(table[:, 0].std(ddof=1)) if len(values) > 1 else 0.0, "beyond": float(table[:, 1].mean()),
        })  # fmt: skip
    return rows


def _in_original(cuts: NDArray[np.int64], change: str, middle: int) -> set[int]:
    if change == "shift":
        return {int(at) + 1 for at in cuts}
    moved = {"SNV": 0, "insertion": -1, "deletion": 1}[change]
    last = middle - 1 if change == "deletion" else middle  # the last base that did not move
    return {int(at) if at <= last else int(at) + moved for at in cuts}


def _jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def sample_windows(letters: Sequence[str], length: int, count: int, seed: int) -> list[str]:
    """Random windows that hold only A, C, G and T; fewer than `count` if few windows do."""
    rng = np.random.default_rng(seed)
    weights = np.array([max(0, len(text) - length) for text in letters], float)
    found: list[str] = []
    for _ in range(20 * count):
        if len(found) == count or not weights.sum():
            break
        text = letters[int(rng.choice(len(letters), p=weights / weights.sum()))]
        start = int(rng.integers(0, len(text) - length))
        window = text[start : start + length]
        if set(window.upper()) <= set("ACGT"):
            found.append(window)
    return found

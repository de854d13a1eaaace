"""How much of a segmentation stays after a small change of the sequence: an SNV, an indel, a shift by one base."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clinical_indels import Change, clinical_deletion, clinical_insertion
from .cutters import Cutter, cut_all

_NEAR = 32  # bases around a change; cuts farther away need not move


def stability_table(windows: Sequence[str], cutters: Sequence[Cutter], *, seed: int) -> list[dict[str, Any]]:
    """A row for each change and segmentation: Jaccard index of the cuts before and after, mean over windows.

    SNV, insertion and deletion change one base in the middle of each window; shift drops its first base. Clinical
    indels have the lengths and contexts of those that cause disease. Cuts are compared in the coordinates of the
    original; those inside inserted or deleted bases do not count. A window's first base does not count, because every
    segmentation starts a token there. `beyond` leaves out cuts within 32 bases of the change.
    """
    rng, clinical = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for letters in windows:
        original = cut_all(cutters, letters)
        middle = len(letters) // 2
        other = str(rng.choice([base for base in "ACGT" if base != letters[middle].upper()]))
        changes = {
            "SNV": Change(middle, 1, other),
            "insertion": Change(middle, 0, other),
            "deletion": Change(middle, 1, ""),
            "clinical insertion": clinical_insertion(letters, clinical),
            "clinical deletion": clinical_deletion(letters, clinical),
            "shift": Change(0, 1, ""),
        }
        for name, change in changes.items():
            for segmentation, starts in cut_all(cutters, change.apply(letters)).items():
                before, after = _comparable(original[segmentation], starts, change)
                far = [{cut for cut in cuts if _is_far(cut, change)} for cuts in (before, after)]
                scores.setdefault((name, segmentation), []).append((_jaccard(before, after), _jaccard(*far)))
    rows = []
    for (name, segmentation), values in scores.items():
        table = np.array(values)
        rows.append({
            "change": name, "tokens": segmentation, "windows": len(values), "Jaccard": float(table[:, 0].mean()),
            "sd": float(table[:, 0].std(ddof=1)) if len(values) > 1 else 0.0, "beyond": float(table[:, 1].mean()),
        })  # fmt: skip
    return rows


def _comparable(before: NDArray[np.bool_], after: NDArray[np.bool_], change: Change) -> tuple[set[int], set[int]]:
    """Cuts before and after the change, both in the coordinates of the original.

    Cuts inside removed or added bases do not count. One before the first removed base counts, and is lost.
    """
    start, removed, added = change.start, change.removed, len(change.added)
    kept = {int(at) for at in np.flatnonzero(before) if not start < at < start + removed}
    moved = {
        int(at) if at < start + min(1, added) else int(at) + removed - added
        for at in np.flatnonzero(after)
        if not start < at < start + added
    }
    # every segmentation starts a token at the window's first base, and after a shift at the next
    return kept - {0, 1}, moved - {0, 1}


def _is_far(cut: int, change: Change) -> bool:
    return cut < change.start - _NEAR or cut >= change.start + max(1, change.removed) + _NEAR


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

"""Number of tokens per motif occurrence, compared with the number after the cuts are rotated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.text_lines import text_lines
from dnachunker.foundations.failures import BadInput

from .cutters import Cuts

_PSEUDOCOUNT = 0.8
_COMPLEMENT = [3, 2, 1, 0]


@dataclass(frozen=True)
class Motif:
    """Counts (4, width) of A, C, G, T at each position."""

    name: str
    counts: NDArray[np.float64]

    @property
    def log_odds(self) -> NDArray[np.float64]:
        """log2 of frequency over 1/4, with pseudocounts."""
        smoothed = self.counts + _PSEUDOCOUNT / 4
        return np.asarray(np.log2(smoothed / smoothed.sum(0) / 0.25))


def read_motifs(path: Path) -> list[Motif]:
    """Read motifs in JASPAR's format: `>ID NAME`, then four lines `A [ 1 2 3 ]`, C, G, T.

    Raises:
        BadInput: the file has another format.
    """
    lines = [line.strip() for line in text_lines(path) if line.strip()]
    found = []
    for start in range(0, len(lines), 5):
        header, *rows = lines[start : start + 5]
        try:
            letters = [row.split()[0] for row in rows]
            counts = np.array([[float(v) for v in row[1:].replace("[", " ").replace("]", " ").split()] for row in rows])
        except (ValueError, IndexError) as error:
            raise BadInput(f"{path}: {header[:40]!r}: not a JASPAR count matrix") from error
        name = header.removeprefix(">").strip()
        ascii_only = all(row.isascii() for row in rows)  # `float` reads the digits of every script
        if (
            not header.startswith(">")
            or not name
            or letters != list("ACGT")
            or not (ascii_only and _are_counts(counts))
        ):
            raise BadInput(f"{path}: {header[:40]!r}: not a JASPAR count matrix: >NAME, then rows A, C, G, T")
        found.append(Motif(name.split(maxsplit=1)[-1], counts))
    if not found:
        raise BadInput(f"{path}: holds no motifs")
    return found


def _are_counts(counts: NDArray[np.float64]) -> bool:
    """Whether a matrix has a column, and none that is negative, infinite or empty."""
    return bool(counts.ndim == 2 and counts.size and np.isfinite(counts).all() and (counts >= 0).all()
                and counts.sum(0).all())  # fmt: skip


def occurrences(motif: Motif, letters: str, threshold: float) -> NDArray[np.int64]:
    """Starts of windows whose log-odds on either strand reach the lowest possible score + `threshold` of the range."""
    table = np.full(256, -1, np.int64)
    for code, letter in enumerate("ACGT"):
        table[[ord(letter), ord(letter.lower())]] = code
    codes = table[np.frombuffer(letters.encode("latin-1"), np.uint8)]
    forward = motif.log_odds
    width = forward.shape[1]
    if len(codes) < width:
        return np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, width)
    known = (windows >= 0).all(1)
    low, high = forward.min(0).sum(), forward.max(0).sum()
    hit = np.zeros(len(windows), bool)
    for matrix in (forward, forward[_COMPLEMENT][:, ::-1]):
        scores = sum(matrix[windows[:, position], position] for position in range(width))
        hit |= known & (scores >= low + threshold * (high - low))
    return np.flatnonzero(hit)


def fragmentation_table(
    letters: Sequence[str],
    cuts: Sequence[Cuts],
    motifs: Sequence[Motif],
    *,
    threshold: float,
    permutations: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each motif and segmentation.

    An occurrence has 1 + the number of cuts strictly inside it tokens. `expected` is the mean after the cuts of each
    sequence are rotated by a random amount. `intact` is the share of occurrences within one token. p is two-sided.
    """
    rows = []
    for motif in motifs:
        width = motif.counts.shape[1]
        places = [occurrences(motif, text, threshold) for text in letters]
        count = sum(map(len, places))
        if not count:
            continue
        for segmentation in cuts[0]:
            starts = [one[segmentation] for one in cuts]
            tokens = 1 + np.concatenate(list(_inside(starts, places, width)))
            rng = np.random.default_rng(seed)
            null = []
            for _ in range(permutations):
                turned = [np.roll(part, int(rng.integers(1, max(2, len(part))))) for part in starts]
                null.append(1 + np.concatenate(list(_inside(turned, places, width))).mean())
            mean, expected = float(tokens.mean()), float(np.mean(null))
            as_far = int((np.abs(np.array(null) - expected) >= abs(mean - expected) - 1e-12).sum())
            rows.append({
                "motif": motif.name, "width": width, "occurrences": count, "tokens": segmentation,
                "tokens per occurrence": mean, "expected": expected, "ratio": mean / expected,
                "intact": float((tokens == 1).mean()), "p": (1 + as_far) / (1 + permutations),
            })  # fmt: skip
    return rows


def _inside(
    starts: Sequence[NDArray[np.bool_]], places: Sequence[NDArray[np.int64]], width: int
) -> Iterator[NDArray[np.int64]]:
    for part, at in zip(starts, places, strict=True):
        before = np.concatenate([[0], np.cumsum(part)])
        yield before[at + width] - before[at + 1]

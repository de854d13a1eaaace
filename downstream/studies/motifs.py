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
from .loops import mark_hits
from .rotations import Rotated, draw_shifts, two_sided_p

_PSEUDOCOUNT = 0.8
_SCORE_STEPS = 20_000
_MEME_SITES = 20  # where a MEME file does not say how many
_COMPLEMENT = [3, 2, 1, 0]
_CODES = np.full(256, 4, np.uint8)
for _code, _letter in enumerate("ACGT"):
    _CODES[[ord(_letter), ord(_letter.lower())]] = _code


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
    """Read motifs in JASPAR's format (`>ID NAME`, then four lines `A [ 1 2 3 ]`, C, G, T) or in MEME's.

    Raises:
        BadInput: the file has another format.
    """
    lines = [line.strip() for line in text_lines(path) if line.strip()]
    found = list(_meme(path, lines) if lines and lines[0].startswith("MEME version") else _jaspar(path, lines))
    if not found:
        raise BadInput(f"{path}: holds no motifs")
    return found


def _jaspar(path: Path, lines: Sequence[str]) -> Iterator[Motif]:
    for start in range(0, len(lines), 5):
        header, *rows = lines[start : start + 5]
        counts = _matrix([row[1:].replace("[", " ").replace("]", " ") for row in rows])
        name = header.removeprefix(">").strip()
        if (
            not header.startswith(">")
            or not name
            or [row[:1] for row in rows] != list("ACGT")
            or not _are_counts(counts)
        ):
            raise BadInput(f"{path}: {header[:40]!r}: not a JASPAR count matrix: >NAME, then rows A, C, G, T")
        yield Motif(name.split(maxsplit=1)[-1], counts)


def _meme(path: Path, lines: Sequence[str]) -> Iterator[Motif]:
    """Frequencies times the number of sites; the alphabet is ACGT."""
    for at, line in enumerate(lines):
        if not line.startswith("MOTIF"):
            continue
        name = line.removeprefix("MOTIF").strip()
        head = next((n for n in range(at + 1, len(lines)) if lines[n].startswith("letter-probability matrix")), None)
        words = lines[head].replace("=", "= ").split() if head else []
        said = dict(zip(words, words[1:], strict=False))
        width, sites, letters = (said.get(key, "") for key in ("w=", "nsites=", "alength="))
        rows = lines[head + 1 : head + 1 + int(width)] if head and width.isascii() and width.isdigit() else []
        frequencies = _matrix(rows).T
        if not name or letters != "4" or not _are_counts(frequencies) or len(rows) != int(width):
            raise BadInput(
                f"{path}: {line[:40]!r}: not a MEME motif: a letter-probability matrix of alength= 4 and w= N"
            )
        yield Motif(name.split(maxsplit=1)[-1], frequencies * float(sites if sites.isdigit() else _MEME_SITES))


def _matrix(rows: Sequence[str]) -> NDArray[np.float64]:
    """The numbers of rows of text; empty if they are not numbers, or rows differ in length."""
    try:
        if not all(row.isascii() for row in rows):  # `float` reads the digits of every script
            return np.zeros((0, 0))
        return np.array([[float(word) for word in row.split()] for row in rows], float)
    except ValueError:
        return np.zeros((0, 0))


def _are_counts(counts: NDArray[np.float64]) -> bool:
    """Whether a matrix has a column, and none that is negative, infinite or empty."""
    return bool(counts.ndim == 2 and counts.size and np.isfinite(counts).all() and (counts >= 0).all()
                and counts.sum(0).all())  # fmt: skip


def occurrences(motif: Motif, letters: str, p: float) -> NDArray[np.int64]:
    """Starts of windows that score so high on a strand that a share of at most `p` of random sequence does.

    Where not even the best score is so rare, as for motifs of a few bases, windows with the best score.
    Random sequence has each base with probability 1/4. Log-odds are rounded to steps of a 20,000th of their range, for
    which the distribution of scores is exact.
    """
    codes = _CODES[np.frombuffer(letters.encode("latin-1"), np.uint8)]
    matrix = motif.log_odds
    step = (matrix.max(0).sum() - matrix.min(0).sum()) / _SCORE_STEPS or 1.0
    steps = np.rint((matrix - matrix.min(0)) / step).astype(np.int64)
    least = _least_score(steps, p)
    hits = np.zeros(len(codes), bool)
    for strand in (steps, np.ascontiguousarray(steps[_COMPLEMENT][:, ::-1])):
        mark_hits(codes, strand, np.argsort(strand.mean(0) - strand.max(0)), least, hits)
    return np.flatnonzero(hits)


def _least_score(steps: NDArray[np.int64], p: float) -> int:
    """The smallest score that random sequence reaches with probability at most `p`."""
    chance = np.ones(1)
    for column in steps.T:
        longer = np.zeros(len(chance) + int(column.max()))
        for score in column:
            longer[score : score + len(chance)] += chance / 4
        chance = longer
    tail = np.cumsum(chance[::-1])[::-1]
    return min(int((tail > p * (1 + 1e-9)).sum()), len(chance) - 1)


def fragmentation_table(
    letters: Sequence[str],
    cuts: Sequence[Cuts],
    motifs: Sequence[Motif],
    *,
    p: float,
    permutations: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each motif and segmentation.

    An occurrence has 1 + the number of cuts strictly inside it tokens. `expected` is the mean after the cuts of each
    sequence are rotated by a random amount. `intact` is the share of occurrences within one token. p is two-sided.
    """
    places = [[occurrences(motif, text, p) for text in letters] for motif in motifs]
    found = [(motif, at) for motif, at in zip(motifs, places, strict=True) if sum(map(len, at))]
    shifts = draw_shifts([len(text) for text in letters], permutations, seed)
    rows = []
    for number, segmentation in enumerate(cuts[0]):
        rotated = Rotated.of([one[segmentation] for one in cuts], shifts)
        for order, (motif, at) in enumerate(found):
            width = motif.counts.shape[1]
            inside = [np.stack([part + 1, part + width], axis=1) for part in at]
            cut = np.concatenate([np.diff(sums[part])[:, 0] for sums, part in zip(rotated.sums, inside, strict=True)])
            mean, *null = 1 + rotated.inside(inside) / len(cut)
            expected = float(np.mean(null))
            rows.append((order, number, {
                "motif": motif.name, "width": width, "occurrences": len(cut), "tokens": segmentation,
                "tokens per occurrence": float(mean), "expected": expected, "ratio": float(mean / expected),
                "intact": float((cut == 0).mean()), "p": two_sided_p(float(mean), np.array(null)),
            }))  # fmt: skip
    return [row for _, _, row in sorted(rows, key=lambda one: one[:2])]

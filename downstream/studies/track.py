"""Whether token starts and losses follow a track of numbers along the genome, such as conservation, beyond its GC."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyBigWig
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.region import Region
from dnachunker.foundations.failures import BadInput

_GC_WINDOW = 101  # bases
_GC_CLASSES = 20

Values = NDArray[np.float64]  # (L,) of a region, NaN where nothing is known


def read_track(path: Path, regions: Sequence[Region]) -> list[Values]:
    """The values of a bigWig in each region.

    Raises:
        BadInput: not a bigWig, or it has no value in these regions.
    """
    try:
        file = pyBigWig.open(str(path))
    except RuntimeError as error:
        raise BadInput(f"{path}: not readable as a bigWig; bedGraphToBigWig makes one of a bedGraph") from error
    with file:
        if not file.isBigWig():
            raise BadInput(f"{path}: not a bigWig")
        sizes = file.chroms()
        found = []
        for region in regions:
            values = np.full(region.length, np.nan)
            end = min(region.end, sizes.get(region.contig, 0))
            if end > region.start:
                values[: end - region.start] = file.values(region.contig, region.start, end, numpy=True)
            found.append(values)
    if all(np.isnan(values).all() for values in found):
        raise BadInput(f"{path}: has no value in these regions; its contigs are {', '.join(list(sizes)[:8])}")
    return found


def track_table(
    letters: Sequence[str],
    track: Sequence[Values],
    measures: Mapping[str, Sequence[Values]],
    *,
    permutations: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Two rows for each measure: its correlation with the track, and with what is left of the track beyond GC.

    Beyond GC is the track less its mean over bases with the same GC content around them (windows of 101 bases, in 20
    classes of equal size). A permutation rotates the measure within each region by a random amount, so it keeps what
    neighbouring bases have in common. p is the share of permutations with a correlation as far from 0 (two-sided).

    Args:
        letters: of each region.
        track: of each region, as the measures are.
        measures: by name, such as token starts as 0 and 1, or losses; NaN where not known.
    """
    rng = np.random.default_rng(seed)
    shifts = np.array([[rng.integers(1, max(2, len(part))) for part in track] for _ in range(permutations)])
    tracks = {"none": list(track), "GC": _beyond_gc(letters, track)}
    rows = []
    for name, measure in measures.items():
        known = [np.isfinite(m) & np.isfinite(t) for m, t in zip(measure, track, strict=True)]
        here = np.concatenate([m[k] for m, k in zip(measure, known, strict=True)])
        there = np.concatenate([t[k] for t, k in zip(track, known, strict=True)])
        high = here > np.median(here)
        for adjusted, values in tracks.items():
            sums = [_sums_by_shift(m, t) for m, t in zip(measure, values, strict=True)]
            observed = _correlation(np.sum([s[:, 0] for s in sums], axis=0))
            null = _correlation(np.sum([s[:, shifts[:, number]] for number, s in enumerate(sums)], axis=0))
            as_far = int((np.abs(null) >= abs(observed) - 1e-12).sum())
            rows.append({
                "tokens": name, "adjusted for": adjusted, "bases": len(here), "correlation": float(observed),
                "sd of rotations": float(null.std()), "p": (1 + as_far) / (1 + permutations),
                "track where high": float(there[high].mean()) if high.any() else float("nan"),
                "track elsewhere": float(there[~high].mean()) if (~high).any() else float("nan"),
            })  # fmt: skip
    return rows


def _beyond_gc(letters: Sequence[str], track: Sequence[Values]) -> list[Values]:
    shares = [_gc_around(text) for text in letters]
    edges = np.quantile(np.concatenate(shares), np.linspace(0, 1, _GC_CLASSES + 1)[1:-1])
    classes = [np.searchsorted(edges, share) for share in shares]
    everywhere, values = np.concatenate(classes), np.concatenate(list(track))
    known = np.isfinite(values)
    counts = np.bincount(everywhere[known], minlength=_GC_CLASSES)
    means = np.bincount(everywhere[known], values[known], minlength=_GC_CLASSES) / np.maximum(counts, 1)
    return [part - means[of] for part, of in zip(track, classes, strict=True)]


def _gc_around(letters: str) -> Values:
    codes = np.frombuffer(letters.upper().encode("latin-1"), np.uint8)
    gc, known = np.isin(codes, np.frombuffer(b"GC", np.uint8)), np.isin(codes, np.frombuffer(b"ACGT", np.uint8))
    half = _GC_WINDOW // 2
    sums = [np.cumsum(np.pad(values.astype(np.int64), (half + 1, half))) for values in (gc, known)]
    around, of = (total[_GC_WINDOW:] - total[:-_GC_WINDOW] for total in sums)
    return np.asarray(around / np.maximum(of, 1), np.float64)


def _sums_by_shift(measure: Values, track: Values) -> NDArray[np.float64]:
    """For each rotation of the measure, the six sums (6, L) that a correlation needs: n, x, y, xx, yy, xy.

    They are circular cross-correlations, so Fourier transforms give those of all rotations together.
    """
    known, there = np.isfinite(measure), np.isfinite(track)
    x, y = np.where(known, measure, 0.0), np.where(there, track, 0.0)

    def turned(values: Values, others: Values) -> Values:
        product = np.conj(np.fft.rfft(values)) * np.fft.rfft(others)
        return np.asarray(np.fft.irfft(product, len(values)), np.float64)

    n, m = known.astype(np.float64), there.astype(np.float64)
    return np.stack([turned(n, m), turned(x, m), turned(n, y), turned(x * x, m), turned(n, y * y), turned(x, y)])


def _correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    n, x, y, xx, yy, xy = sums
    spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
    return np.asarray((n * xy - x * y) / np.where(spread > 0, spread, np.inf), np.float64)

"""What `annotate --track` writes: predicted numbers for genome browsers, and the table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyBigWig
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.region import Region

from .config import AnnotateConfig
from .data import Split
from .outputs import Record, spread
from .track_values import TrackValues


def write_values(
    path: Path, regions: Sequence[Region], values: NDArray[np.float32], lengths: Mapping[str, int]
) -> None:
    """Write predicted numbers (L,) of regions, one after the other, as a bigWig.

    Args:
        lengths: contig -> length in bases.
    """
    order = {contig: number for number, contig in enumerate(lengths)}
    starts = np.cumsum([0, *(region.length for region in regions)])
    parts = sorted(zip(regions, starts, strict=False), key=lambda part: (order[part[0].contig], part[0].start))
    with pyBigWig.open(str(path), "w") as wig:
        wig.addHeader(list(lengths.items()))
        for region, start in parts:
            numbers = np.ascontiguousarray(values[start : start + region.length], np.float64)
            wig.addEntries(region.contig, region.start, values=numbers, span=1, step=1)


def track_rows(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """A row for each method; means ± standard deviation over seeds."""
    rows = []
    for method, results in records.items():
        scores = [result["scores"] for result in results]
        low, high = scores[0]["pearson_interval"]
        rows.append({
            "method": f"{method}, diverged" if any(result.get("diverged") for result in results) else method,
            "Pearson": spread([one["pearson"] for one in scores]),
            "Pearson, 95 % of seed 0": f"{low:.3f} to {high:.3f}",
            "Spearman": spread([one["spearman"] for one in scores]),
            "variance explained": spread([one["variance_explained"] for one in scores]),
            "bases": scores[0]["bases"], "parameters": results[0]["parameters"], "seeds": len(results),
        })  # fmt: skip
    return rows


def track_notes(values: TrackValues, split: Split, config: AnnotateConfig) -> list[str]:
    """What a reader of the table has to know."""
    return [
        f"Trained on {sum(region.length for region in split.train):,} bases, to the least mean squared error of "
        f"{'log(1 + number)' if config.log_values else 'the number'} (mean {values.mean:.4g}, standard deviation "
        f"{values.spread:.4g}). Tested once on {', '.join(map(str, split.test))}. Bases without a number are left out.",
        f"The validation regions ({', '.join(map(str, split.validation))}) decide when training stops, by Pearson's r.",
        "Variance explained is 1 - mean squared error / variance of the test regions; below 0 their mean would be a "
        "better guess.",
        "± is the standard deviation over seeds. The interval is a bootstrap over stretches of 10,000 bases "
        f"({config.bootstrap:,} resamples).",
    ]

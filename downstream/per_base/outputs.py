"""What `annotate` writes: segments for genome browsers, the table, the precision-recall curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.region import Region
from dnachunker.foundations.figure_style import INK, MUTED, plain_text, quieten, svg_file

from .scores import RECALLS

_COLOURS = ("#1f6feb", "#c2410c", "#8c959f", "#2e9e83", "#6f42c1", "#d29922")

Record = Mapping[str, Any]


def write_segments(
    path: Path,
    regions: Sequence[Region],
    probabilities: NDArray[np.float32],
    decoded: NDArray[np.int64],
    classes: Sequence[str],
) -> None:
    """Write the predicted segments of all classes but the last, the background, as BED9.

    The score is 1000 times the mean probability of the class over the segment.

    Args:
        probabilities, decoded: (L, classes) and (L,) of the regions, one after the other.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write('track name="predicted" itemRgb="On"\n')
        first = 0
        for region in regions:
            part = slice(first, first + region.length)
            table, predicted = probabilities[part], decoded[part]
            first += region.length
            borders = np.flatnonzero(np.diff(predicted, prepend=-1, append=-1))
            for start, end in zip(borders[:-1], borders[1:], strict=True):
                number = predicted[start]
                if number == len(classes) - 1:
                    continue
                name, strand = classes[number], "."
                if name[-1] in "+-":
                    name, strand = name[:-1], name[-1]
                score = round(1000 * float(table[start:end, number].mean()))
                place = f"{region.start + start}\t{region.start + end}"
                colour = ",".join(str(int(_COLOURS[number % 6][at : at + 2], 16)) for at in (1, 3, 5))
                file.write(f"{region.contig}\t{place}\t{name}\t{score}\t{strand}\t{place}\t{colour}\n")


def table_rows(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """A row for each method and class, and one for the mean over classes; means ± standard deviation over seeds.

    Args:
        records: by method, the result of each seed.
    """
    rows = []
    for method, results in records.items():
        seeds = len(results)
        if any(result.get("diverged") for result in results):
            method = f"{method}, diverged"
        low, high = results[0]["scores"]["macro_f1_interval"]
        rows.append({
            "method": method, "class": "mean", "F1": spread([r["scores"]["macro_f1"] for r in results]),
            "F1, 95 % of seed 0": f"{low:.3f} to {high:.3f}",
            "AUPRC": spread([r["scores"]["macro_auprc"] for r in results]),
            "segment F1, exact": "", "segment F1, overlap": "",
            "bases": results[0]["scores"]["bases"], "segments": "", "parameters": results[0]["parameters"],
            "seeds": seeds,
        })  # fmt: skip
        for name in results[0]["scores"]["classes"]:
            found = [result["scores"]["classes"][name] for result in results]
            rows.append({
                "method": method, "class": name, "F1": spread([one["f1"] for one in found]),
                "F1, 95 % of seed 0": "", "AUPRC": spread([one["auprc"] for one in found]),
                "segment F1, exact": spread([one["segment_f1_exact"] for one in found]),
                "segment F1, overlap": spread([one["segment_f1_overlap"] for one in found]),
                "bases": found[0]["bases"], "segments": found[0]["segments"],
                "parameters": results[0]["parameters"], "seeds": seeds,
            })  # fmt: skip
    return rows


def curves_figure(records: Mapping[str, Sequence[Record]]) -> str:
    """Precision-recall curves of seed 0 as SVG text: a panel for each class, a line in it for each method."""
    first = {method: results[0]["scores"]["classes"] for method, results in records.items()}
    classes = list(next(iter(first.values())))
    figure = Figure(figsize=(2.6 * len(classes) + 1.2, 3.0), layout="constrained")
    panels = figure.subplots(1, len(classes), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, classes, strict=True):
        for number, (method, scores) in enumerate(first.items()):
            curve = scores[name]["precision_at_recall"]
            if curve is not None:
                axes.plot(RECALLS, curve, color=_COLOURS[number % 6], lw=1.3, label=plain_text(method))
        axes.set_title(plain_text(name), loc="left", fontsize=9, color=INK)
        axes.set_xlabel("recall", fontsize=9, color=MUTED)
        axes.set_ylim(0, 1.02)
        quieten(axes)
    panels[0].set_ylabel("precision", fontsize=9, color=MUTED)
    panels[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return svg_file(figure)


def tenths_figure(records: Mapping[str, Sequence[Record]]) -> str:
    """SVG text: the mean true number in each tenth of the predicted numbers of seed 0, a line for each method."""
    figure = Figure(figsize=(4.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for number, (method, results) in enumerate(records.items()):
        means = results[0]["scores"]["mean_of_tenths"]
        axes.plot(range(1, len(means) + 1), means, color=_COLOURS[number % 6], lw=1.3, label=plain_text(method))
    axes.set_title("truth, in standard deviations", loc="left", fontsize=9, color=INK)
    axes.set_xlabel("tenth of the predictions (1 to 10)", fontsize=9, color=MUTED)
    quieten(axes)
    axes.legend(frameon=False, fontsize=8)
    return svg_file(figure)


def spread(values: Sequence[float | None]) -> str:
    """The mean of the seeds' values ± their standard deviation; "undefined" without values."""
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    deviation = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{deviation}"

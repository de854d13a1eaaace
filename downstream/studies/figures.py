"""Figures of the segmentation studies, as SVG text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dnachunker.foundations.figure_style import INK, MUTED, plain_text, quieten, svg_file, titled_figure

_COLOURS = ("#1f6feb", "#c2410c", "#8c959f", "#2e9e83", "#6f42c1", "#d29922")


def bar_figure(
    rows: Sequence[Mapping[str, Any]], group: str, value: str, title: str, *, line: float | None = None
) -> str:
    """Grouped bars: a group for each value of the column `group`, a bar in it for each segmentation (`tokens`).

    Args:
        line: value without any effect, drawn as a line.
    """
    if not rows:
        return ""
    groups = list(dict.fromkeys(row[group] for row in rows))
    segmentations = list(dict.fromkeys(row["tokens"] for row in rows))
    figure, axes = titled_figure(title, (max(5.0, 1.6 + 0.32 * len(groups) * len(segmentations)), 3.4))
    width = 0.8 / len(segmentations)
    for number, segmentation in enumerate(segmentations):
        heights = {row[group]: row[value] for row in rows if row["tokens"] == segmentation}
        at = np.arange(len(groups)) + (number - (len(segmentations) - 1) / 2) * width
        colour = _COLOURS[number % len(_COLOURS)]
        axes.bar(
            at,
            [heights.get(name, np.nan) for name in groups],
            width * 0.92,
            color=colour,
            label=plain_text(segmentation),
        )
    if line is not None:
        axes.axhline(line, color=MUTED, lw=1, ls=(0, (4, 2)))
    axes.set_xticks(
        range(len(groups)), [plain_text(str(name)) for name in groups], rotation=20 if len(groups) > 3 else 0
    )
    axes.set_ylabel(value, fontsize=9, color=MUTED)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return svg_file(figure)


def profile_figure(profiles: Mapping[tuple[str, str], NDArray[np.float64]], title: str) -> str:
    """Boundary density around borders: a panel for each border, a line in it for each segmentation.

    Args:
        profiles: by (segmentation, border), density over the average at distances -radius..radius.
    """
    if not profiles:
        return ""
    borders = list(dict.fromkeys(border for _, border in profiles))
    segmentations = list(dict.fromkeys(segmentation for segmentation, _ in profiles))
    figure = Figure(figsize=(7.2, 1.0 + 1.9 * len(borders)), layout="constrained")
    panels = figure.subplots(len(borders), 1, squeeze=False)[:, 0]
    figure.suptitle(plain_text(title), fontsize=10, color=INK, x=0.02, ha="left")
    for axes, border in zip(panels, borders, strict=True):
        for number, segmentation in enumerate(segmentations):
            profile = profiles.get((segmentation, border))
            if profile is not None:
                radius = len(profile) // 2
                colour = _COLOURS[number % len(_COLOURS)]
                axes.plot(range(-radius, radius + 1), profile, color=colour, lw=1.3, label=plain_text(segmentation))
        axes.axhline(1, color=MUTED, lw=0.8, ls=(0, (4, 2)))
        axes.axvline(0, color=MUTED, lw=0.8)
        axes.set_title(plain_text(border), loc="left", fontsize=9, color=INK)
        quieten(axes)
    panels[0].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    panels[-1].set_xlabel("bases from the border, in the direction of transcription", fontsize=9, color=MUTED)
    return svg_file(figure)


def divergence_figure(rows: Sequence[Mapping[str, Any]], x: str, title: str) -> str:
    """A line for each column but `x`, on a logarithmic scale."""
    figure, axes = titled_figure(title, (6.4, 3.4))
    for number, name in enumerate(column for column in rows[0] if column != x):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(
            [row[x] for row in rows],
            [row[name] for row in rows],
            "o-",
            ms=3,
            lw=1.4,
            color=colour,
            label=plain_text(name),
        )
    axes.set_yscale("log")
    axes.set_xlabel(x, fontsize=9, color=MUTED)
    axes.set_ylabel("divergence (bits)", fontsize=9, color=MUTED)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return svg_file(figure)

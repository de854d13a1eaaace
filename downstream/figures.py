"""Figures of the segmentation studies, as SVG text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

_INK, _MUTED = "#1f2328", "#6e7781"
_COLOURS = ("#1f6feb", "#c2410c", "#8c959f", "#2e9e83", "#6f42c1", "#d29922")


def bar_figure(
    rows: Sequence[Mapping[str, Any]], group: str, value: str, title: str, *, line: float | None = None
) -> str:
    """Grouped bars: a group for each value of the column `group`, a bar in it for each way of cutting (`tokens`).

    Args:
        line: where a value would mean nothing happened.
    """
    groups = list(dict.fromkeys(row[group] for row in rows))
    ways = list(dict.fromkeys(row["tokens"] for row in rows))
    figure, axes = _figure(title, max(5.0, 1.6 + 0.32 * len(groups) * len(ways)))
    width = 0.8 / len(ways)
    for number, way in enumerate(ways):
        heights = {row[group]: row[value] for row in rows if row["tokens"] == way}
        at = np.arange(len(groups)) + (number - (len(ways) - 1) / 2) * width
        colour = _COLOURS[number % len(_COLOURS)]
        axes.bar(at, [heights.get(name, np.nan) for name in groups], width * 0.92, color=colour, label=way)
    if line is not None:
        axes.axhline(line, color=_MUTED, lw=1, ls=(0, (4, 2)))
    axes.set_xticks(range(len(groups)), groups, rotation=20 if len(groups) > 3 else 0)
    axes.set_ylabel(value, fontsize=9, color=_MUTED)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def profile_figure(profiles: Mapping[tuple[str, str], NDArray[np.float64]], title: str) -> str:
    """Boundary density around borders: a panel for each border, a line in it for each way of cutting.

    Args:
        profiles: by (way, border), density over the average at distances -radius..radius.
    """
    borders = list(dict.fromkeys(border for _, border in profiles)) or ["none"]
    ways = list(dict.fromkeys(way for way, _ in profiles))
    figure = Figure(figsize=(7.2, 1.0 + 1.9 * len(borders)), layout="constrained")
    panels = figure.subplots(len(borders), 1, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=10, color=_INK, x=0.02, ha="left")
    for axes, border in zip(panels, borders, strict=True):
        for number, way in enumerate(ways):
            profile = profiles.get((way, border))
            if profile is not None:
                radius = len(profile) // 2
                colour = _COLOURS[number % len(_COLOURS)]
                axes.plot(range(-radius, radius + 1), profile, color=colour, lw=1.3, label=way)
        axes.axhline(1, color=_MUTED, lw=0.8, ls=(0, (4, 2)))
        axes.axvline(0, color=_MUTED, lw=0.8)
        axes.set_title(border, loc="left", fontsize=9, color=_INK)
        _quiet(axes)
    panels[0].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    panels[-1].set_xlabel("bases from the border, in the direction of transcription", fontsize=9, color=_MUTED)
    return _svg(figure)


def divergence_figure(rows: Sequence[Mapping[str, Any]], x: str, title: str) -> str:
    """A line for each column but `x`, on a logarithmic scale."""
    figure, axes = _figure(title, 6.4)
    for number, name in enumerate(column for column in rows[0] if column != x):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot([row[x] for row in rows], [row[name] for row in rows], "o-", ms=3, lw=1.4, color=colour, label=name)
    axes.set_yscale("log")
    axes.set_xlabel(x, fontsize=9, color=_MUTED)
    axes.set_ylabel("divergence (bits)", fontsize=9, color=_MUTED)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _figure(title: str, width: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.grid(axis="y", color="#e6e8eb", lw=0.8)
    _quiet(axes)
    return figure, axes


def _quiet(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_MUTED, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#d0d7de")


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()

"""The plots of a sweep, as SVG text for inlining."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnachunker.foundations.figure_style import (
    GRID,
    INK,
    MARKOV_LINES,
    MUTED,
    inline_svg,
    plain_text,
    quieten,
    titled_figure,
)

from .rows import Row, headline, shared_baselines
from .tables import title_of, unit_of

_COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#7e22ce", "#b45309", "#0e7490", "#be185d", "#57606a")
_LONGEST_LEGEND = 16


def curve_figure(rows: Sequence[Row]) -> str:
    """Held-out loss against training bases: the mean of each row's seeds, and a band of one standard deviation."""
    figure, axes = _figure(f"Held-out {headline(rows).title} loss (nats) against training bases (millions)")
    lowest, start = math.inf, -math.inf
    for number, row in enumerate(rows):
        curves = [result["curve"] for result in row.results.values()]
        if not curves:
            continue
        points = min(map(len, curves))
        bases = np.array([bases / 1e6 for bases, _ in curves[0][:points]])
        losses = np.array([[loss for _, loss in curve[:points]] for curve in curves])
        mean, colour = losses.mean(0), _COLOURS[number % len(_COLOURS)]
        spread = losses.std(0, ddof=1) if len(curves) > 1 else np.zeros_like(mean)
        if len(curves) > 1:
            axes.fill_between(bases, mean - spread, mean + spread, color=colour, alpha=0.13, lw=0)
        axes.plot(bases, mean, "o-", color=colour, lw=1.6, ms=3.5, label=plain_text(row.name))
        lowest, start = min(lowest, (mean - spread).min()), max(start, (mean + spread).max())
    for order, value in shared_baselines(rows).items():
        axes.axhline(value, color=MUTED, lw=0.9, ls=MARKOV_LINES[order], label=f"order-{order} Markov")
        lowest, start = min(lowest, value), max(start, value)
    if math.isfinite(lowest):
        margin = 0.05 * (start - lowest) or 0.01
        axes.set_ylim(lowest - margin, start + margin)
    _legend(axes)
    return inline_svg(figure, "Held-out loss of each row against training bases")


def bar_figure(rows: Sequence[Row], metric: str) -> str:
    """A metric of each row: dots for seeds, a tick for the mean, an error bar of one standard deviation."""
    found = [row for row in rows if row.values(metric)]
    figure = Figure(figsize=(7.2, 0.9 + 0.34 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    unit = unit_of(metric)
    for place, row in enumerate(found):
        mean, spread, _ = row.moments(metric)
        values, colour = [value / unit for value in row.values(metric)], _COLOURS[list(rows).index(row) % len(_COLOURS)]
        axes.plot(values, [place] * len(values), "o", color=colour, ms=3, alpha=0.55)
        bar = 0.0 if math.isnan(spread) else spread / unit
        axes.errorbar(mean / unit, place, xerr=bar, fmt="|", ms=14, mew=2.2, color=colour, elinewidth=1.4, capsize=3)
    axes.set_yticks(range(len(found)), [plain_text(row.name) for row in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    title = title_of(metric)
    axes.set_title(plain_text(title), loc="left", fontsize=10, color=INK)
    if metric in ("masked_loss", "next_base_loss"):
        for order, value in shared_baselines(rows).items():
            axes.axvline(value, color=MUTED, lw=0.9, ls=MARKOV_LINES[order], label=f"order-{order} Markov")
        _legend(axes)
    axes.grid(axis="x", color=GRID, lw=0.8)
    quieten(axes)
    return inline_svg(figure, f"{title} of each row")


def scatter_figure(rows: Sequence[Row], x: str, y: str, *, pareto: bool) -> str:
    """Two metrics of each row with error bars; with `pareto`, a line through the rows that none beats in both."""
    figure, axes = _figure(f"{title_of(y)} against {title_of(x)}")
    units = [unit_of(x), unit_of(y)]
    points: list[tuple[float, float]] = []
    for number, row in enumerate(rows):
        if not row.values(x) or not row.values(y):
            continue
        (across, across_sd, _), (up, up_sd, _) = row.moments(x), row.moments(y)
        point = across / units[0], up / units[1]
        bars = [0.0 if math.isnan(sd) else sd / unit for sd, unit in zip((across_sd, up_sd), units, strict=True)]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.errorbar(*point, xerr=bars[0], yerr=bars[1], fmt="o", ms=5, color=colour, elinewidth=1, capsize=2.5)
        axes.annotate(plain_text(row.name), point, xytext=(6, 5), textcoords="offset points", fontsize=8, color=INK)
        points.append(point)
    if pareto and len(points) > 1:
        front = sorted(p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points))
        axes.plot(*zip(*front, strict=True), color=MUTED, lw=1, ls=(0, (4, 2)), zorder=0, label="Pareto front of means")
        _legend(axes)
    axes.set_xlabel(plain_text(title_of(x)), fontsize=9, color=MUTED)
    axes.margins(0.12)
    return inline_svg(figure, f"{title_of(y)} against {title_of(x)}")


def _figure(title: str) -> tuple[Figure, Axes]:
    figure, axes = titled_figure(title, (7.2, 4.0))
    axes.grid(axis="x", color=GRID, lw=0.8)
    return figure, axes


def _legend(axes: Axes) -> None:
    count = len(axes.get_legend_handles_labels()[1])
    if 0 < count <= _LONGEST_LEGEND:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))

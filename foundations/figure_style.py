"""The common style of all figures, and their output as SVG: as a file, or as an element of an HTML page."""

import html
import io
import re

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, LINE, GRID = "#1f2328", "#6e7781", "#d0d7de", "#e6e8eb"
MARKOV_LINES = {0: (0, (1, 2)), 3: (0, (4, 2)), 5: "solid"}  # matplotlib line styles by order


def titled_figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of `size` inches (width, height) with one panel, styled by `quieten`, and horizontal grid lines."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(plain_text(title), loc="left", fontsize=10, color=INK)
    axes.grid(axis="y", color=GRID, lw=0.8)
    quieten(axes)
    return figure, axes


def quieten(axes: Axes) -> None:
    """Style a panel: small grey ticks, the grid behind the data, no lines at the top and the right."""
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=MUTED, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)


def svg_file(figure: Figure) -> str:
    """The text of an SVG file; equal figures give equal bytes."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "dnachunker"}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()


def inline_svg(figure: Figure, label: str) -> str:
    """An `<svg>` element for HTML that scales with its page; screen readers read `label` aloud."""
    svg = svg_file(figure)
    svg = svg[svg.index("<svg") :]  # without the XML and doctype lines, which HTML does not allow
    sizes = re.compile(r'(<svg [^>]*?)(?:width|height)="[^"]*"')  # without a fixed size, the viewBox scales
    named = f'role="img" aria-label="{html.escape(label)}"'
    return sizes.sub(lambda found: found[1] + named, sizes.sub(r"\1", svg, count=1), count=1)


def plain_text(name: str) -> str:
    """The name with `$` escaped, which matplotlib would read as mathematics."""
    return name.replace("$", r"\$")

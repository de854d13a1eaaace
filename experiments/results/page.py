"""The HTML page of a sweep: one self-contained file with tables and plots."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dnachunker.experiments.config import SweepConfig
from dnachunker.foundations.atomic_files import write_text
from dnachunker.foundations.typed_config import to_yaml

from .figures import bar_figure, curve_figure, scatter_figure
from .rows import Row
from .tables import notes, shown_metrics, tables_of

PAGE = "sweep.html"
_BARS = (
    "masked_loss",
    "next_base_loss",
    "trunk_unmasked",
    "trunk_masked",
    "bases_per_second",
)  # and probe scores, analyses and species


def write_page(output: Path, sweep: SweepConfig, rows: Sequence[Row]) -> Path:
    """Write OUT/sweep.html and return its path."""
    shown = shown_metrics(rows)
    # metrics of a probe, an analysis or a species have a dot in their name
    bars = [metric for metric in shown if metric in _BARS or "." in metric]
    figures = [curve_figure(rows)] if any(row.results for row in rows) else []
    figures += [
        scatter_figure(rows, plot.x, plot.y, pareto=plot.pareto)
        for plot in sweep.plots
        if any(row.values(plot.x) and row.values(plot.y) for row in rows)
    ]
    figures += [bar_figure(rows, metric) for metric in bars]
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    text = pages.get_template("sweep.html.j2").render(
        sweep=sweep, rows=rows, tables=tables_of(rows), notes=notes(sweep, rows),
        figures=[Markup(figure) for figure in figures],  # our own SVG, in which matplotlib has escaped the names
        finished=sum(len(row.results) for row in rows), failed=sum(len(row.failures) for row in rows),
        missing=sum(len(row.missing) for row in rows), config_yaml=to_yaml(sweep),
    )  # fmt: skip
    write_text(output / PAGE, text)
    return output / PAGE

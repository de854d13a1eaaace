"""`dnachunker report`: a run as one self-contained HTML page, made from its events alone."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from failures import BadInput
from typed_config import to_yaml

from .figures import compression_figure, gradient_figure, loss_figure, speed_figure
from .markov import ORDERS
from .preflight import read_config
from .telemetry import read_events

REPORT = "report.html"
_BASES_PER_ROW = 100


def write_report(run: Path) -> Path:
    """Write RUN/report.html and return its path.

    Raises:
        BadInput: the folder is no run, or it has not taken a step yet.
    """
    config = read_config(run)
    events = read_events(run)
    steps = [event for event in events if event["event"] == "step"]
    if not steps:
        raise BadInput(f"{run}: no step has been logged yet, so there is nothing to report")
    evaluations = [event for event in events if event["event"] == "evaluation"]
    segmentations = [event for event in events if event["event"] == "segmentation"]
    starts = [event for event in events if event["event"] in ("start", "resume")]
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = pages.get_template("report.html.j2").render(
        run=run.name,
        config=config,
        config_yaml=to_yaml(config),
        start=starts[-1],
        last=steps[-1],
        bases=sum(step["bases"] for step in steps) / len(steps) * steps[-1]["steps_done"],
        final=evaluations[-1] if evaluations else None,
        orders=ORDERS,
        figures=[
            Markup(figure)  # our own SVG, not user text
            for figure in (
                loss_figure(steps, evaluations),
                compression_figure(steps, evaluations),
                gradient_figure(steps),
                speed_figure(steps),
            )
        ],
        segmentation=segmentations[-1] if segmentations else None,
        rows=_chunk_rows(segmentations[-1]) if segmentations else [],
        history=[event for event in events if event["event"] not in ("step", "evaluation", "segmentation")],
    )
    partial = run / f".{REPORT}.partial"
    partial.write_text(page, encoding="utf-8")
    return partial.replace(run / REPORT)


def _chunk_rows(segmentation: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of bases, each cut into pieces at stage-0 boundaries; stage-1 chunks alternate in colour."""
    sequence, inner, outer = segmentation["sequence"], set(segmentation["stage0"]), set(segmentation["stage1"])
    rows, colour = [], 0
    for begin in range(0, len(sequence), _BASES_PER_ROW):
        pieces: list[dict[str, Any]] = []
        for position in range(begin, min(begin + _BASES_PER_ROW, len(sequence))):
            if position in outer:
                colour = 1 - colour
            if position in inner or position == begin:
                pieces.append({"text": "", "colour": colour, "starts": position in inner})
            pieces[-1]["text"] += sequence[position]
        rows.append({"offset": begin, "pieces": pieces})
    return rows

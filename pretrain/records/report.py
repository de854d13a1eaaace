"""`dnachunker report`: a run as one self-contained HTML page, made from its event log alone."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dnachunker.foundations.atomic_files import write_text
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import to_yaml
from dnachunker.pretrain.data.headline import MASKED, headline_of, stages_of
from dnachunker.pretrain.evaluation.markov import ORDERS
from dnachunker.pretrain.run_folder import read_config

from .event_log import read_events
from .figures import (
    chunk_length_figure,
    compression_figure,
    gradient_figure,
    loss_figure,
    rate_figure,
    speed_figure,
    utilisation_figure,
)

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
    diagnostics = [event for event in events if event["event"] == "diagnostics"]
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
        headline=headline_of(evaluations[-1]) if evaluations else None,
        orders=ORDERS,
        figures=[
            Markup(figure)  # our own SVG, not user text
            for figure in (
                loss_figure(steps, evaluations, [e for e in events if e["event"] in ("resume", "guard")]),
                compression_figure(steps, evaluations),
                chunk_length_figure(steps),
                gradient_figure(steps),
                rate_figure(steps),
                speed_figure(steps),
                utilisation_figure(steps),
            )
        ],
        segmentation=segmentations[-1] if segmentations else None,
        rows=_chunk_rows(segmentations[-1]) if segmentations else [],
        last_stage=len(steps[-1]["compression"]) - 1,
        diagnostics=diagnostics[-1] if diagnostics else None,
        checks=_checks(diagnostics[-1]) if diagnostics else [],
        history=[{"event": e["event"], "steps_done": e["steps_done"], "what": _what(e)} for e in events if _notable(e)],
    )
    write_text(run / REPORT, page)
    return run / REPORT


def _checks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the diagnostics table: what was measured, what is expected, and whether it is so."""
    limits = found["thresholds"]
    failure = "mask leakage" if headline_of(found) == MASKED else "idle trunk"
    rows = [
        (f"{failure}: nats lost without the trunk (mean)", "trunk_mean_cost", limits["trunk_cost"], None),
        (f"{failure}: nats lost without the trunk (shuffled)", "trunk_shuffle_cost", limits["trunk_cost"], None),
    ]
    for stage in stages_of(found, "compression_stage"):
        low, high = limits["least_compression"], limits["most_compression"]
        rows += [
            (f"boundaries kept after a shift by one base, stage {stage}", f"shift_overlap_stage{stage}",
             limits["shift_overlap"], None),
            (f"chunks per position, unmasked, stage {stage}", f"compression_stage{stage}", low, high),
        ]  # fmt: skip
    return [
        {"name": name, "value": found[key], "expected": f"{low} to {high}" if high else f"at least {low}",
         "good": found[key] is not None and low <= found[key] <= (high or float("inf"))}
        for name, key, low, high in rows
    ]  # fmt: skip


def _notable(event: dict[str, Any]) -> bool:
    return event["event"] not in ("step", "evaluation", "segmentation", "diagnostics") or bool(event.get("warnings"))


def _what(event: dict[str, Any]) -> str:
    if event["event"] in ("start", "resume"):
        damaged = "".join(f"; not used: {line}" for line in event["damaged"])
        return f"{event['world_size']} ranks, ZeRO stage {event['zero_stage']}{damaged}"
    if event["event"] == "diagnostics":
        return f"warning: {', '.join(sorted(set(event['warnings'])))}"
    return str(event.get("folder") or event.get("signal") or event.get("detail") or "")


def _chunk_rows(segmentation: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of bases, each cut into pieces at stage-0 boundaries; the last stage's chunks alternate in colour."""
    sequence, stages = segmentation["sequence"], stages_of(segmentation, "stage")
    inner, outer = (set(segmentation[f"stage{stage}"]) for stage in (stages[0], stages[-1]))
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

"""`dnachunker report`: one run, or several side by side, as one self-contained HTML page made from event logs alone."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dnachunker.dataprep.corpus.markov import ORDERS
from dnachunker.foundations.atomic_files import write_text
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.typed_config import to_yaml
from dnachunker.pretrain.data.headline import MASKED, headline_of, stages_of

from .charts import charts_of_run, charts_of_runs, nodes_of, tables_of
from .compare_runs import differences, summaries
from .run_curves import AXES, RunCurves

REPORT, COMPARISON = "report.html", "comparison.html"
_BASES_PER_ROW = 100
_SILENT_SECONDS = 1800  # after which a run that has not ended is no longer taken to be running
_PAGES = Path(__file__).parent / "pages"


def write_report(run: Path) -> Path:
    """Write RUN/report.html and return its path.

    Raises:
        BadInput: the folder is no run, or it has not taken a step yet.
    """
    return write_page([run], run / REPORT)


def write_page(runs: Sequence[Path], output: Path) -> Path:
    """Write the page of one run, or of several side by side, to a file, and return its path.

    Raises:
        BadInput: as `report_page`, or the file cannot be written.
    """
    store_page(report_page(runs), output)
    return output


def store_page(page: str, output: Path) -> None:
    """Write a page, as a whole or not at all.

    Raises:
        BadInput: the file cannot be written.
    """
    try:
        write_text(output, page)
    except OSError as error:
        raise BadInput(f"{output}: cannot be written ({error.strerror}); choose a file with --output") from error


def output_of(runs: Sequence[Path], chosen: str | None = None) -> Path:
    """Where the page of these runs goes by default: into the run's folder, or the folder that holds all the runs.

    Raises:
        BadInput: a run is named twice.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise BadInput(f"{', '.join(map(str, runs))}: a run is named twice; name each run once")
    if chosen:
        return Path(chosen)
    if len(runs) == 1:
        return runs[0] / REPORT
    return Path(os.path.commonpath([run.resolve().parent for run in runs])) / COMPARISON


def report_page(folders: Sequence[Path], *, live: bool = False) -> str:
    """The HTML of a report about one run, or about several.

    Args:
        live: the page asks its server for news.

    Raises:
        BadInput: a folder is no run, or it has not taken a step yet.
    """
    runs = [RunCurves(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    charts = charts_of_run(runs[0]) if len(runs) == 1 else charts_of_runs(runs)
    pages = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    content = _of_run(runs[0]) if len(runs) == 1 else _of_runs(runs)
    return pages.get_template("report.html.j2" if len(runs) == 1 else "comparison.html.j2").render(
        # the library and our script hold no user text
        library=Markup((_PAGES / "uplot" / "uPlot.iife.min.js").read_text("utf-8")),
        library_style=Markup((_PAGES / "uplot" / "uPlot.min.css").read_text("utf-8")),
        script=Markup((_PAGES / "report.js").read_text("utf-8")),
        data={
            "axes": [axis for axis in AXES if all(axis in run.last for run in runs)],
            "charts": charts,
            "tables": tables_of(runs, charts),
            "marks": [_marks(run) for run in runs],
            "live": live,
        },
        **content,
    )  # fmt: skip


def _of_run(run: RunCurves) -> dict[str, Any]:
    """What the page of a single run says beside its charts."""
    evaluations, segmentations = run.of_kind("evaluation"), run.of_kind("segmentation")
    diagnostics, samples = run.of_kind("diagnostics"), run.of_kind("system")
    return {
        "run": run,
        "title": run.name,
        "config_yaml": to_yaml(run.config),
        "state": _state(run),
        "final": evaluations[-1] if evaluations else None,
        "orders": ORDERS,
        "segmentation": segmentations[-1] if segmentations else None,
        "rows": _chunk_rows(segmentations[-1]) if segmentations else [],
        "last_stage": len(run.of_kind("step")[-1]["compression"]) - 1,
        "diagnostics": diagnostics[-1] if diagnostics else None,
        "checks": _checks(diagnostics[-1]) if diagnostics else [],
        "history": [
            {"event": e["event"], "steps_done": e["steps_done"], "what": _what(e)} for e in run.events if _notable(e)
        ],
        "nodes": {node: samples[-1][node] for node in nodes_of(run)},
        "slowest": samples[-1] if samples else {},
    }


def _of_runs(runs: Sequence[RunCurves]) -> dict[str, Any]:
    """What the page of several runs says beside its charts."""
    return {
        "title": f"{len(runs)} runs",
        "states": [_state(run) for run in runs],
        "summaries": summaries(runs),
        "differences": differences(runs),
        "names": [run.name for run in runs],
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """Each run's folder without what all paths have in common; "" for a single run, which has a name of its own."""
    if len(folders) == 1:
        return [""]
    parts = [folder.resolve().parts for folder in folders]
    common = len(Path(os.path.commonpath([folder.resolve() for folder in folders])).parts)
    shared = {part for part in parts[0] if all(part in other for other in parts)}
    return ["/".join(p for p in path[common:] if p not in shared) or path[-1] for path in parts]


def _state(run: RunCurves) -> dict[str, Any]:
    """Whether a run goes on, as far as its log tells, and how much of it is done."""
    kind, last = run.events[-1]["event"], run.events[-1]
    ended = {"finish": "finished", "interrupt": "interrupted"}
    silent = time.time() - last["time"] > _SILENT_SECONDS
    pace = [step["seconds"] for step in run.of_kind("step")[-20:] if step.get("seconds")]
    left = run.config.steps - run.last["steps"]
    return {
        "name": ended.get(kind, "silent" if silent else "running"),
        "share": run.last["steps"] / run.config.steps,
        "seconds_left": left * sum(pace) / len(pace) if pace and kind not in ended and not silent else None,
        "told": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(last["time"])),
    }


def _marks(run: RunCurves) -> list[dict[str, float]]:
    """Where the charts have a vertical line: resumes and guards."""
    keys = [axis for axis in AXES if axis in run.last]
    return [{key: row[key] for key in keys} for kind in ("resume", "guard") for row in run.rows(kind)]


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

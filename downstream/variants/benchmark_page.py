"""Writes the findings of a benchmark of variants: one HTML page, a Markdown table, JSON, and a row for each variant."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from sklearn.metrics import roc_curve

from dnachunker.foundations.atomic_files import write_json, write_text
from dnachunker.foundations.figure_style import MUTED, inline_svg, plain_text, titled_figure

from .labelled_variants import Row
from .ranking import Estimate, Labels, Ranking
from .regression import Calibration
from .score_columns import ALL_COMBINED, COMBINED, LIKELIHOOD, RANDOM, Score

DASH = "–"
_COLOURS = ("#1f6feb", "#c2410c", "#2e9e83", "#6f42c1", "#d29922", "#8c959f", "#0e7490", "#be185d", "#4d7c0f")
_HEADER = ["score", "AUROC", "difference", "AUPRC", "Brier", "positive", "negative", "meaning"]


@dataclass(frozen=True)
class Findings:
    """What a benchmark found.

    Attributes:
        rows, labels: of the variants; scores: columns over these.
        rankings: by name of the score and stratum; the first stratum is all variants.
        differences: by name of the score, its AUROC minus that of the first score.
        calibrations: by name of the score; None where there are too few variants.
        overlap: share of the k-mers around the variants that the corpus holds, by place.
        options: what the findings were made from, as JSON holds it.
    """

    title: str
    rows: Sequence[Row]
    labels: Labels
    scores: Sequence[Score]
    rankings: Mapping[tuple[str, str], Ranking]
    differences: Mapping[str, Estimate | None]
    calibrations: Mapping[str, Calibration | None]
    strata: Sequence[str]
    overlap: Mapping[str, float]
    options: Mapping[str, Any]
    notes: Sequence[str]


def write_findings(folder: Path, findings: Findings) -> None:
    """Write page.html, table.md, results.json and variants.tsv."""
    body, strata = _body(findings), _strata(findings)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
    )  # fmt: skip
    page = environment.get_template("benchmark.html.j2").render(
        title=findings.title, tables=[(_HEADER, body), *([strata] if strata[1] else [])], notes=findings.notes,
        figures=[Markup(_roc_figure(findings)), Markup(_calibration_figure(findings))],
    )  # fmt: skip
    write_text(folder / "page.html", page)
    lines = [f"# {findings.title}", "", *_markdown(_HEADER, body)]
    if strata[1]:
        lines += ["", "AUROC by stratum:", "", *_markdown(*strata)]
    write_text(folder / "table.md", "\n".join([*lines, "", *(f"- {note}" for note in findings.notes), ""]))
    write_json(folder / "results.json", _results(findings))
    write_text(folder / "variants.tsv", _tsv(findings))


def _body(findings: Findings) -> list[list[str]]:
    body = []
    for score in findings.scores:
        ranking, calibration = findings.rankings[score.name, findings.strata[0]], findings.calibrations[score.name]
        brier = f"{calibration.brier:.3f}" if calibration else DASH
        counts = [f"{ranking.positives:,}", f"{ranking.negatives:,}"]
        estimates = [ranking.auroc, findings.differences.get(score.name), ranking.auprc]
        body.append([score.name, *map(_shown, estimates), brier, *counts, score.meaning])
    return body


def _strata(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row for each stratum, a column for each main score."""
    main = _main(findings)
    header = ["stratum", "positive", "negative", *(score.name for score in main)]
    body = []
    for name in findings.strata[1:]:
        of = [findings.rankings[score.name, name] for score in main]
        counts = [f"{of[0].positives:,}", f"{of[0].negatives:,}"]
        body.append([name, *counts, *(_shown(ranking.auroc) for ranking in of)])
    return header, body


def _main(findings: Findings) -> list[Score]:
    """The scores that figures show: whole methods, not the parts of a combined score."""
    main = (LIKELIHOOD, COMBINED, ALL_COMBINED)
    names = {*main, RANDOM + LIKELIHOOD, RANDOM + COMBINED, *findings.options["against"]}
    return [score for score in findings.scores if score.name in names or score.name.startswith("markov")]


def _shown(estimate: Estimate | None) -> str:
    return str(estimate) if estimate else DASH


def _markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [header, ["---"] * len(header), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]


def _results(findings: Findings) -> dict[str, Any]:
    rows = [
        {"score": name, "stratum": stratum, **asdict(ranking)}
        for (name, stratum), ranking in findings.rankings.items()
    ]  # fmt: skip
    calibrations = {
        name: {"brier": found.brier, "base_brier": found.base_brier, "predicted": found.predicted.tolist(),
               "observed": found.observed.tolist()} if found else None
        for name, found in findings.calibrations.items()
    }  # fmt: skip
    differences = {name: asdict(found) if found else None for name, found in findings.differences.items()}
    overlap = {where: None if np.isnan(share) else share for where, share in findings.overlap.items()}
    return {
        "title": findings.title, "options": dict(findings.options), "rows": rows, "auroc_differences": differences,
        "calibration": calibrations, "overlap": overlap, "notes": list(findings.notes),
    }  # fmt: skip


def _tsv(findings: Findings) -> str:
    text = io.StringIO()
    out = csv.writer(text, delimiter="\t", lineterminator="\n")
    by = findings.options["by"]
    stratum = [by] if by else []
    out.writerow(["chrom", "pos", "ref", "alt", "label", *stratum, *(score.name for score in findings.scores)])
    for number, row in enumerate(findings.rows):
        contig, position, _, reference, alternative = row.fields
        values = [score.values[number] for score in findings.scores]
        numbers = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
        of = [row.values.get(name, "") for name in stratum]
        out.writerow([contig, position, reference, alternative, int(findings.labels[number]), *of, *numbers])
    return text.getvalue()


def _roc_figure(findings: Findings) -> str:
    figure, axes = titled_figure("ROC", (6.4, 4.2))
    for colour, score in zip(cycle(_COLOURS), _main(findings), strict=False):
        auroc = findings.rankings[score.name, findings.strata[0]].auroc
        if auroc:
            known = np.isfinite(score.ranked)
            false, true, _ = roc_curve(findings.labels[known], score.ranked[known])
            axes.plot(false, true, color=colour, lw=1.4, label=plain_text(f"{score.name} {auroc.value:.3f}"))
    axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=(0, (4, 2)))
    axes.set_xlabel("share of negatives above the threshold", fontsize=9, color=MUTED)
    axes.set_ylabel("share of positives above it", fontsize=9, color=MUTED)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return inline_svg(figure, "ROC curves of the main scores")


def _calibration_figure(findings: Findings) -> str:
    figure, axes = titled_figure("Calibration", (6.4, 4.2))
    most = 0.0
    for colour, score in zip(cycle(_COLOURS), _main(findings), strict=False):
        found = findings.calibrations[score.name]
        if found:
            axes.plot(found.predicted, found.observed, "o-", ms=3, lw=1.2, color=colour, label=plain_text(score.name))
            most = max(most, float(found.predicted.max()), float(found.observed.max()))
    axes.plot([0, most], [0, most], color=MUTED, lw=0.8, ls=(0, (4, 2)))
    axes.set_xlabel("mean predicted probability of being positive", fontsize=9, color=MUTED)
    axes.set_ylabel("share of positives", fontsize=9, color=MUTED)
    if most:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return inline_svg(figure, "Observed share of positives by predicted probability")

"""The charts of a report: which curves stand in each, and the numbers that the page's script draws.

A chart is plain data for `pages/report.js`, which knows no metric by name.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dnachunker.dataprep.corpus.markov import ORDERS

from .run_curves import RunCurves

_DASHES = {0: [2, 4], 3: [6, 4], 5: []}  # of the Markov baselines, by order
_GREY = -1  # the colour of what a model is compared with
_MOST_NODES = 8  # drawn as one curve each
_SYSTEM: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("cpu_percent", "CPU", "%", {"top": 100}),
    ("memory_percent", "Memory", "%", {"top": 100}),
    ("gpu_percent", "GPU utilisation", "%", {"top": 100}),
    ("gpu_memory_percent", "GPU memory", "%", {"top": 100}),
    ("network_mb_per_second", "Network, in and out", "MB/s", {}),
    ("disk_mb_per_second", "Disk, read and written", "MB/s", {}),
    ("data_wait_seconds", "Waiting for data, slowest rank", "s per step", {}),
    ("forward_seconds", "Forward pass, slowest rank", "s per step", {}),
)


class Curve(NamedTuple):
    """One curve: a key of `RunCurves.columns`.

    Attributes:
        colour: number of a colour of the page; -1 is grey.
        style: `line`, `faint` (thin, behind others), `dots` (few points, joined by a line).
        below: key of a second curve; the area between the two is tinted.
    """

    label: str
    kind: str
    key: str
    colour: int = 0
    style: str = "line"
    dash: Sequence[int] = ()
    run: int = 0
    below: str | None = None


def charts_of_run(run: RunCurves) -> list[dict[str, Any]]:
    """The charts of a single run, the most important first."""
    charts = []
    if run.headline:
        model = Curve(f"held out, {run.headline.title}", "evaluation", "headline_loss", 0, "dots")
        charts.append(_chart("loss", f"Held-out {run.headline.title} loss beside Markov models", "nats per base",
                             [model, *_baselines()], ceiling=_ceiling([run])))  # fmt: skip
    charts += [
        _chart("objective", "Training loss and held-out loss, same positions and weights", "nats per base",
               [*_training_loss(), Curve("held out", "evaluation", "objective_loss", 1, "dots")],
               ceiling=_ceiling([run])),
        _chart("compression", "Compression: chunks kept per position", "", [
            curve for stage in _stages(run) for curve in (
                Curve(f"stage {stage}, masked", "step", f"compression.stage{stage}", stage, "faint"),
                Curve(f"stage {stage}, unmasked", "evaluation", f"compression.stage{stage}", stage, "dots"),
            )
        ], top=1, zero=True),
        _chart("chunk-length", "Chunk length as trained, with 10th to 90th percentile", "bases", [
            curve for stage in _stages(run) for curve in (
                Curve(f"stage {stage}, median", "step", f"chunk_length.stage{stage}.p50", stage),
                Curve("90th", "step", f"chunk_length.stage{stage}.p90", stage, "faint",
                      below=f"chunk_length.stage{stage}.p10"),
            )
        ], zero=True),
        _chart("probes", "Probes of checkpoints", "", [
            Curve(key.replace(".", " "), "probes", f"probes.{key}", number, "dots")
            for number, key in enumerate(probes_of([run]))
        ]),
        *_pace([("", 0)]),
    ]  # fmt: skip
    return _with_data([*charts, *_system_charts(run)], [run])


def charts_of_runs(runs: Sequence[RunCurves]) -> list[dict[str, Any]]:
    """The charts that compare runs, one colour a run."""
    named = [(run.name, number) for number, run in enumerate(runs)]

    def each(kind: str, key: str, style: str = "line") -> list[Curve]:
        return [Curve(name, kind, key, number, style, run=number) for name, number in named]

    baseline = [Curve("order-5 Markov", "evaluation", "order5_loss", _GREY)]
    charts = [
        _chart("headline", "Held-out loss minus order-5 Markov loss (below 0 is better)", "nats per base",
               each("evaluation", "over_order5", "dots"), ceiling=_ceiling(runs, over=5), mark=0),
        _chart("loss", "Held-out loss", "nats per base",
               [*each("evaluation", "headline_loss", "dots"), *(baseline if _same_baseline(runs) else [])],
               ceiling=_ceiling(runs)),
        _chart("objective", "Training loss, median of recent steps", "nats per base",
               [curve._replace(label=name, colour=number, run=number) for name, number in named
                for curve in _training_loss() if curve.key.endswith(".smooth")], ceiling=_ceiling(runs)),
        _chart("compression", "Chunks that reach the trunk, per base, unmasked", "",
               each("evaluation", "trunk_share", "dots"), zero=True),
        *(_chart(f"probes-{number}", f"Probe: {key.replace('.', ' ')}", "", each("probes", f"probes.{key}", "dots"))
          for number, key in enumerate(probes_of(runs))),
        *_pace(named),
    ]  # fmt: skip
    return _with_data(charts, runs)


def tables_of(runs: Sequence[RunCurves], charts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The numbers behind the charts: of each run, by kind of event, its columns."""
    wanted: list[dict[str, dict[str, None]]] = [{} for _ in runs]  # by run and kind, an ordered set of keys
    for chart in charts:
        for curve in chart["curves"]:
            keys = wanted[curve["run"]].setdefault(curve["kind"], {})
            keys |= dict.fromkeys(key for key in (curve["key"], curve["below"]) if key)
    return [
        {kind: run.columns(kind, list(keys)) for kind, keys in of_run.items()}
        for run, of_run in zip(runs, wanted, strict=True)
    ]


def probes_of(runs: Sequence[RunCurves]) -> list[str]:
    """Names of what probes measured, as NAME.SCORE."""
    found = {(name, key) for run in runs for event in run.of_kind("probes")
             for name, scores in event["probes"].items() for key in scores}  # fmt: skip
    return [f"{name}.{key}" for name, key in sorted(found)]


def nodes_of(run: RunCurves) -> list[str]:
    """The machines that the run's `system` events tell of, `node0`, `node1` ..."""
    samples = run.of_kind("system")
    return [key for key, value in samples[-1].items() if isinstance(value, dict)] if samples else []


def _pace(named: Sequence[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Charts that are alike for one run and for several."""
    for identity, title, unit, curves, options in (
        ("throughput", "Throughput", "bases/s", (("bases per second", "bases_per_second"),), {"zero": True}),
        ("utilisation", "Utilisation and waiting for data", "% of a step",
         (("model-FLOPs utilisation", "utilisation_percent"), ("waiting for data", "data_wait_percent")),
         {"zero": True}),
        ("gradient", "Gradient norm before clipping", "", (("gradient norm", "grad_norm"),), {"log": True}),
        ("rate", "Learning rate", "", (("learning rate", "lr"),), {"zero": True}),
    ):  # fmt: skip
        several = len(named) > 1
        yield _chart(identity, title if not several else title.replace(" and waiting for data", ""), unit, [
            Curve(name or label, "step", key, number if several else index, run=number)
            for name, number in named
            for index, (label, key) in enumerate(curves[:1] if several else curves)
        ], **options)  # fmt: skip


def _system_charts(run: RunCurves) -> Iterator[dict[str, Any]]:
    nodes = nodes_of(run)
    for key, title, unit, options in _SYSTEM:
        curves = [Curve(node, "system", f"{node}.{key}", number) for number, node in enumerate(nodes)]
        if len(nodes) > _MOST_NODES:
            curves = [Curve(f"{which} of {len(nodes)} nodes", "system", f"{which}.{key}", number)
                      for number, which in enumerate(("least", "median", "most"))]  # fmt: skip
        yield _chart(f"system-{key}", title, unit, curves, group="system", zero=True, **options)


def _chart(identity: str, title: str, unit: str, curves: Iterable[Curve], **options: Any) -> dict[str, Any]:
    """
    Args:
        options: `zero`: the y axis begins at 0; `top`: its largest value; `ceiling`: of its first view; `log`;
            `mark`: a value with a horizontal line; `group`: the part of the page.
    """
    return {"id": identity, "title": title, "unit": unit, "curves": [curve._asdict() for curve in curves], **options}


def _training_loss() -> list[Curve]:
    """Of masked bases or of a causal model: one of the two has numbers."""
    return [
        curve
        for key in ("mlm_loss", "next_base_loss")
        for curve in (
            Curve("training, each step", "step", key, 0, "faint"),
            Curve("training, median of recent steps", "step", f"{key}.smooth", 0),
        )
    ]


def _baselines() -> list[Curve]:
    return [
        Curve(f"order-{order} Markov", "evaluation", f"order{order}_loss", _GREY, dash=_DASHES[order])
        for order in ORDERS
    ]


def _stages(run: RunCurves) -> range:
    return range(len(run.of_kind("step")[-1]["compression"]))


def _ceiling(runs: Sequence[RunCurves], over: int | None = None) -> float | None:
    """A little above order 0: losses of the first steps would hide all that follows."""
    told = [event for run in runs for event in run.of_kind("evaluation")[-1:] if event.get("order0_loss") is not None]
    if not told:
        return None
    return max(event["order0_loss"] - (event[f"order{over}_loss"] if over else 0.0) for event in told) + 0.12


def _same_baseline(runs: Sequence[RunCurves]) -> bool:
    told = {event.get("order5_loss") for run in runs for event in run.of_kind("evaluation")[-1:]}
    return len({None if loss is None else round(loss, 6) for loss in told}) == 1


def _with_data(charts: Iterable[dict[str, Any]], runs: Sequence[RunCurves]) -> list[dict[str, Any]]:
    """The charts without the curves that have no numbers; those with none left are dropped."""
    known = {
        (number, kind): {key for row in run.rows(kind) for key in row}
        for number, run in enumerate(runs)
        for kind in ("step", "evaluation", "system", "probes")
    }
    kept = []
    for chart in charts:
        curves = [c for c in chart["curves"] if c["key"].removesuffix(".smooth") in known[c["run"], c["kind"]]]
        if curves:
            kept.append({**chart, "curves": curves})
    return kept

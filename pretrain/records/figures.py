"""The curves of a report, as SVG text for inlining."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dnachunker.foundations.figure_style import MARKOV_LINES, MUTED, inline_svg, titled_figure
from dnachunker.pretrain.data.headline import headline_of
from dnachunker.pretrain.evaluation.markov import ORDERS

Events = Sequence[dict[str, Any]]

# One hue for the model and its first stage, others for further stages, greys for what the model is compared with.
_MODEL, _FAINT, _SECOND = "#1f6feb", "#a9c7f7", "#c2410c"
_STAGES = (_MODEL, _SECOND, "#15803d", "#7e22ce")


def loss_figure(steps: Events, evaluations: Events, marks: Events) -> str:
    """Loss of each step and on held-out sequence, beside the Markov baselines.

    Args:
        marks: resumes and guards, drawn as vertical lines.
    """
    figure, axes = _figure("Loss (nats per base)")
    for index, event in enumerate(marks):
        label = "resumed, or a guard fired" if not index else None
        axes.axvline(event["steps_done"], color="#d29922", lw=1, alpha=0.6, label=label)
    x = [event["steps_done"] for event in steps]
    term = next((name for name in ("mlm_loss", "next_base_loss") if steps and name in steps[0]), "loss")
    axes.plot(x, [event[term] for event in steps], color=_FAINT, lw=1, label="training, all selected positions")
    if evaluations:
        done = [event["steps_done"] for event in evaluations]
        key, title = headline_of(evaluations[-1])
        losses = [event[f"{key}_loss"] for event in evaluations]
        axes.plot(done, losses, "o-", color=_MODEL, lw=2, ms=4, label=f"held out, {title}")
        for order in ORDERS:
            value = evaluations[-1][f"order{order}_loss"]
            axes.axhline(value, color=MUTED, lw=1, ls=MARKOV_LINES[order], label=f"order-{order} Markov")
        low = min(*losses, *(evaluations[-1][f"order{o}_loss"] for o in ORDERS))
        axes.set_ylim(low - 0.05, evaluations[-1]["order0_loss"] + 0.12)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    return inline_svg(figure, "Loss against steps")


def compression_figure(steps: Events, evaluations: Events) -> str:
    """Chunks per position of each stage: of masked sequence as in training, and without masks."""
    figure, axes = _figure("Compression (chunks kept per input position)")
    x = [event["steps_done"] for event in steps]
    done = [event["steps_done"] for event in evaluations]
    for stage, name, colour in _stages(steps):
        share = [event["compression"][stage] for event in steps]
        axes.plot(x, share, color=colour, lw=1, alpha=0.45, label=f"{name}, masked")
        share = [event["compression"][stage] for event in evaluations]
        axes.plot(done, share, "o-", color=colour, lw=2, ms=4, label=f"{name}, unmasked")
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return inline_svg(figure, "Compression against steps")


def chunk_length_figure(steps: Events) -> str:
    """Lengths of the chunks of the masked input: the median, and the middle four fifths."""
    figure, axes = _figure("Chunk length as trained (bases: median, 10th to 90th percentile)")
    x = [event["steps_done"] for event in steps]
    for stage, name, colour in _stages(steps):
        low, middle, high = ([event["chunk_length"][stage][p] for event in steps] for p in ("p10", "p50", "p90"))
        axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
        axes.plot(x, middle, color=colour, lw=1.5, label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return inline_svg(figure, "Chunk length against steps")


def rate_figure(steps: Events) -> str:
    """Learning rate of each step."""
    figure, axes = _figure("Learning rate")
    axes.plot([e["steps_done"] for e in steps], [e["lr"] for e in steps], color=_MODEL, lw=1.5)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1e}" if value else "0"))
    return inline_svg(figure, "Learning rate against steps")


def utilisation_figure(steps: Events) -> str:
    """Model FLOPs as a share of what the devices can multiply, and time spent waiting for data."""
    figure, axes = _figure("Utilisation and waiting for data (% of a step)")
    x = [event["steps_done"] for event in steps]
    axes.plot(x, [100 * e["utilisation"] for e in steps], color=_MODEL, lw=1.2, label="model-FLOPs utilisation")
    axes.plot(x, [100 * e["data_wait"] / e["seconds"] for e in steps], color=_SECOND, lw=1.2, label="waiting for data")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return inline_svg(figure, "Utilisation against steps")


def speed_figure(steps: Events) -> str:
    """Bases a second over all ranks."""
    figure, axes = _figure("Throughput (bases per second)")
    axes.plot([e["steps_done"] for e in steps], [e["bases_per_second"] for e in steps], color=_MODEL, lw=1.2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return inline_svg(figure, "Throughput against steps")


def gradient_figure(steps: Events) -> str:
    """2-norm of the gradients before clipping."""
    figure, axes = _figure("Gradient norm before clipping")
    norms = [float("nan") if e["grad_norm"] is None else e["grad_norm"] for e in steps]
    axes.plot([e["steps_done"] for e in steps], norms, color=_MODEL, lw=1.2)
    axes.set_yscale("log")
    return inline_svg(figure, "Gradient norm against steps")


def _stages(steps: Events) -> Iterator[tuple[str, str, str]]:
    """Of each stage its key in events, its name and its colour."""
    keys: Iterable[str] = steps[-1]["compression"] if steps else ()
    for key, colour in zip(keys, cycle(_STAGES), strict=False):
        yield key, key.replace("stage", "stage "), colour


def _figure(title: str) -> tuple[Figure, Axes]:
    figure, axes = titled_figure(title, (7.2, 3.3))
    axes.set_xlabel("step", fontsize=9, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes

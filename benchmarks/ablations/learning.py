"""What each safeguard of the model is worth: the same training with one of them off at a time.

    python benchmarks/ablations/learning.py train FOLDER               # corpus, five runs and exports: 1-2 hours
    python benchmarks/ablations/learning.py train FOLDER --runs forced # some of them, beside others elsewhere
    python benchmarks/ablations/learning.py table FOLDER               # benchmarks/results/ablations.{md,svg}

Preset `tiny` on the embedded Helicobacter pylori genome, its last tenth held out, 5.5 million bases a run.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from matplotlib.figure import Figure

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.model.modeling_dnachunker import DNAChunkerForMaskedLM
from dnachunker.pretrain.data.masking import Batch, MaskingRates, corrupt
from dnachunker.pretrain.data.training_data import window_keys
from dnachunker.pretrain.data.window_reader import WindowReader
from dnachunker.pretrain.evaluation.diagnostics import diagnose, warnings_of
from dnachunker.pretrain.order.sample_order import held_out_windows
from dnachunker.pretrain.records.event_log import read_events

ROOT = Path(__file__).parents[2]
RUNS = {
    "baseline": [],
    "no_protection": ["model.mask_protection=false"],
    "no_gating": ["model.residual_gating=false"],
    "forced": ["model.ratio_boundaries=forced"],
    "no_ratio_loss": ["model.ratio_loss_weight=0"],
}
TITLES = {
    "baseline": "as published",
    "no_protection": "mask protection off",
    "no_gating": "residual gating off",
    "forced": "ratio loss counts forced boundaries",
    "no_ratio_loss": "no ratio loss",
}
GENOME = "sample:helicobacter_pylori_F32.fa.gz"
CONTIG, BASES, HELD_OUT_FROM = "NC_017366.1", 1_578_824, 1_420_941
STEPS, BATCH, WINDOW = 672, 8, 1024
ORDERS = (0, 3, 5)
RESULTS = ROOT / "benchmarks" / "results"


def train(folder: Path, runs: list[str]) -> None:
    """Build the corpus, train and export the runs that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    bed = folder / "split.bed"
    bed.write_text(f"{CONTIG}\t0\t{HELD_OUT_FROM}\ttrain\n{CONTIG}\t{HELD_OUT_FROM}\t{BASES}\tvalid\n")
    config = folder / "corpus.yaml"
    config.write_text(
        f"sources:\n  helicobacter:\n    path: {GENOME}\n    species: Helicobacter pylori\n"
        f"    split: {{kind: bed, path: {bed.absolute()}}}\nblock_bases: 65536\nshard_bases: 4194304\n"
    )
    if not (folder / "corpus").exists():
        dnachunker("shard", "--config", config, "--output", folder / "corpus")
    for name in runs:
        run = folder / "runs" / name
        dnachunker(
            "pretrain", "--config", "tiny", "--corpus", folder / "corpus", "--run", run, "--processes", 1,
            f"steps={STEPS}", "evaluation.every=112", "evaluation.windows=128", "checkpoint.every=112",
            "checkpoint.keep=20", "tracking.enabled=false", *RUNS[name],
        )  # fmt: skip
        if not (folder / "exports" / name).exists():
            dnachunker("export", run, folder / "exports" / name)


def dnachunker(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "dnachunker", *map(str, arguments)], check=True, cwd=ROOT)


def held_out(corpus: Corpus) -> Iterator[Batch]:
    """Every held-out window, corrupted as in pretraining."""
    reader = WindowReader(corpus, "valid")
    windows = held_out_windows(reader.block_bases, seq_len=WINDOW, count=10**6)
    for start in range(0, len(windows), BATCH):
        some = windows.take(slice(start, start + BATCH))
        yield corrupt(torch.from_numpy(reader.read(some, WINDOW)), window_keys(some), MaskingRates())


def router_gradients(model: DNAChunkerForMaskedLM, batch: Batch) -> dict[str, list[float]]:
    """2-norm of each stage's router gradient from the masked-LM loss alone and from the ratio loss alone."""
    norms: dict[str, list[float]] = {}
    for name in ("mlm_loss", "ratio_loss"):
        model.zero_grad()
        output = model(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)
        getattr(output, name).backward()
        norms[name] = [
            float(torch.nn.utils.get_total_norm([p.grad for p in router.parameters()]))
            for router in model.dnachunker.hierarchy.routers
        ]
    return norms


def measure(folder: Path) -> list[dict[str, Any]]:
    """Diagnostics and router gradients of every export, named RUN or RUN-STEP, in the order of RUNS and steps."""
    batches, found = list(held_out(Corpus.open(str(folder / "corpus")))), []
    for path in (folder / "exports").iterdir():
        run, step = path.name.partition("-")[0], json.loads((path / "export.json").read_text())["step"]
        model = DNAChunkerForMaskedLM.from_pretrained(path)
        metrics = diagnose(model, batches)
        trained = next(
            e for e in read_events(folder / "runs" / run) if e["event"] == "step" and e["steps_done"] == step
        )
        found.append(
            {
                "run": run,
                "step": step,
                "masked": trained["compression"],
                "diagnostics": metrics,
                "warnings": [warning.name for warning in warnings_of(metrics)],
                "gradients": router_gradients(model, batches[0]),
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return sorted(found, key=lambda entry: (list(RUNS).index(entry["run"]), entry["step"]))


def read_steps(folder: Path, run: str) -> list[dict[str, Any]]:
    """The step events of a run."""
    return [event for event in read_events(folder / "runs" / run) if event["event"] == "step"]


def evaluations_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The held-out evaluations of each run, as far as it has come."""
    runs = [name for name in RUNS if (folder / "runs" / name).exists()]
    return {name: [e for e in read_events(folder / "runs" / name) if e["event"] == "evaluation"] for name in runs}


def table(folder: Path) -> None:
    """Write the figure and the table."""
    found, evaluations = measure(folder), evaluations_of(folder)
    RESULTS.mkdir(exist_ok=True)
    baselines = evaluations["baseline"][-1]
    lines = [
        "# What each safeguard is worth",
        "",
        f"Preset `tiny` (1.4 M parameters), *H. pylori* F32, last tenth held out, {STEPS} steps of {BATCH * WINDOW:,} "
        "bases, one seed, CPU. Markov baselines on the same [MASK] positions: "
        + ", ".join(f"order {order} {baselines[f'order{order}_loss']:.4f}" for order in ORDERS)
        + ". Written by `benchmarks/ablations/learning.py`; definitions in `pretrain/evaluation/diagnostics.py`.",
        "",
        "![held-out loss](ablations.svg)",
        "",
        "Held-out [MASK] loss in nats (128 windows), after so many million bases:",
        "",
    ]
    shown = [e["steps_done"] for e in evaluations["baseline"]]
    lines += row("", *(f"{step * BATCH * WINDOW / 1e6:.2f}" for step in shown)), rule(len(shown) + 1)
    for name, told in evaluations.items():
        near = [[e for e in told if abs(e["steps_done"] - step) <= 8] for step in shown]
        lines.append(row(TITLES[name], *(f"{events[0]['masked_loss']:.4f}" if events else "" for events in near)))
    last = {name: read_steps(folder, name)[-1]["steps_done"] for name in evaluations}
    short = [f"{TITLES[name]} ({step * BATCH * WINDOW / 1e6:.2f})" for name, step in last.items() if step < STEPS]
    if short:
        lines += ["", f"Stopped early, at so many million bases: {', '.join(short)}."]
    columns = (
        "", "million bases", "[MASK] loss", "trunk by its mean costs", "shuffled costs", "compression, unmasked",
        "masked", "router gradient, MLM", "ratio loss", "kept under a shift of one", "warnings",
    )  # fmt: skip
    lines += ["", "Of the exported models, over every held-out window; pairs are stage 0 / stage 1:", "", row(*columns)]
    lines.append(rule(len(columns)))
    for entry in found:
        metrics, gradients, masked = entry["diagnostics"], entry["gradients"], entry["masked"]
        lines.append(
            row(
                TITLES[entry["run"]],
                f"{entry['step'] * BATCH * WINDOW / 1e6:.2f}",
                f"{metrics['masked_loss']:.4f}",
                f"{metrics['trunk_mean_cost']:+.4f}",
                f"{metrics['trunk_shuffle_cost']:+.4f}",
                pair(metrics["compression_stage0"], metrics["compression_stage1"]),
                pair(masked["stage0"], masked["stage1"]),
                " / ".join(f"{norm:.1e}" for norm in gradients["mlm_loss"]),
                " / ".join(f"{norm:.1e}" for norm in gradients["ratio_loss"]),
                pair(metrics["shift_overlap_stage0"], metrics["shift_overlap_stage1"]),
                ", ".join(entry["warnings"]) or "none",
            )
        )
    (RESULTS / "ablations.md").write_text("\n".join(lines) + "\n")
    draw(evaluations).savefig(RESULTS / "ablations.svg", metadata={"Date": None})


def pair(first: float, second: float) -> str:
    return f"{first:.2f} / {second:.2f}"


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def rule(columns: int) -> str:
    return row("---", *["---:"] * (columns - 1))


def draw(evaluations: dict[str, list[dict[str, Any]]]) -> Figure:
    """Held-out [MASK] loss against bases, one line a run, baselines as grey lines."""
    figure = Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(RUNS, ("#1f6feb", "#c2410c", "#15803d", "#7e22ce", "#b45309"), strict=True))
    for name, told in evaluations.items():
        x = [event["steps_done"] * BATCH * WINDOW / 1e6 for event in told]
        y = [event["masked_loss"] for event in told]
        axes.plot(x, y, "o-", ms=3, lw=2 if name == "baseline" else 1.2, color=colours[name], label=TITLES[name])
    for order in ORDERS:
        level = evaluations["baseline"][-1][f"order{order}_loss"]
        axes.axhline(level, color="#6e7781", lw=1, ls=(0, (4, 2)))
        axes.annotate(f"order {order}", (0.05, level), color="#6e7781", fontsize=8, va="bottom")
    axes.set(xlabel="training bases (millions)", ylabel="held-out [MASK] loss (nats)", xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("folder", type=Path, help="corpus, runs and exports")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="which to train")
    arguments = parser.parse_args()
    if arguments.what == "train":
        train(arguments.folder, arguments.runs)
    else:
        table(arguments.folder)


if __name__ == "__main__":
    main()

"""Bases and CPU seconds until the held-out loss of preset tiny reaches marks, on orthologous regions of 23 vertebrates.

make speedrun DNACHUNKER_TEST_DATA=DATA ARGS="--row NAME --seeds 0 1 --bases 20000000 --set KEY=VALUE ..."

DATA/genomes/mammals/ holds a SPECIES.fa.gz for each species, with contigs of the ENCODE regions ENm001 and ENm002.
ENm001 of every species is trained on; ENm002 of human is held out, and that of other species is not used. The corpus is
made by `dnachunker shard`. Each seed is trained by `dnachunker pretrain` with one rank and one thread. The losses are
those of the run's event log, over [MASK] positions of held-out windows. A mark is reached at the first evaluation at or
below it. CPU seconds are of all processes of the run, its start and its evaluations included.

Rows of several calls share OUTPUT/curves.json; a row of the same name is replaced. OUTPUT/table.md and OUTPUT/curve.svg
show all rows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.figure_style import svg_file, titled_figure
from dnachunker.pretrain.data.headline import headline_losses
from dnachunker.pretrain.records.event_log import read_events
from dnachunker.pretrain.records.provenance import code_version

ROOT = Path(__file__).resolve().parents[1]
MARKS = (1.30, 1.29, 1.28)
TRAINED, HELD_OUT, SPECIES = "ENm001", "ENm002", "human"
STEP_BASES, EVALUATED_EVERY = 8192, 25
SETTINGS = (
    f"evaluation.every={EVALUATED_EVERY}", "evaluation.windows=256", "evaluation.diagnostics_every=1000000",
    "checkpoint.every=1000000", "tracking.enabled=false", "launch.processes=1",
)  # fmt: skip
_FIXED = ("seed=", "steps=", "log_every=", "data.global_batch=", "data.seq_len=", "data.curriculum=")
_SECONDS_BETWEEN_SAMPLES = 0.5


class Point(NamedTuple):
    """An evaluation: training bases and CPU seconds so far, held-out loss in nats a base."""

    bases: int
    cpu: float
    loss: float


def genomes() -> Path:
    """The folder of the genomes.

    Raises:
        BadInput: DNACHUNKER_TEST_DATA is not set, or names a folder without them.
    """
    data = os.environ.get("DNACHUNKER_TEST_DATA")
    if not data:
        raise BadInput("DNACHUNKER_TEST_DATA is not set: set it to a folder that holds genomes/mammals/SPECIES.fa.gz")
    folder = Path(data, "genomes", "mammals").absolute()
    if not (folder / f"{SPECIES}.fa.gz").is_file():
        raise BadInput(f"{folder}/{SPECIES}.fa.gz does not exist: set DNACHUNKER_TEST_DATA to a folder that holds it")
    return folder


def build_corpus(folder: Path, scratch: Path) -> Path:
    """Shard the genomes of `folder` in `scratch`."""
    sources = {}
    for path in sorted(folder.glob("*.fa.gz")):
        name = path.name.removesuffix(".fa.gz")
        used = [f"{TRAINED}*", *([HELD_OUT] if name == SPECIES else [])]
        held_out = {"valid": [HELD_OUT]} if name == SPECIES else {}
        sources[name] = {
            "path": str(path), "contigs": {"include": used}, "split": {"kind": "contigs", "splits": held_out}
        }  # fmt: skip
    config, corpus = scratch / "corpus.yaml", scratch / "corpus"
    config.write_text(yaml.safe_dump({"sources": sources, "block_bases": 65536}))
    measure("shard", "--config", config, "--output", corpus)
    return corpus


def measure(*arguments: object) -> list[tuple[float, float]]:
    """Run one `dnachunker` command in one thread; its CPU seconds, children included, against the wall clock.

    Raises:
        BadInput: the command failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    argv = [sys.executable, "-m", "dnachunker", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:
        command = psutil.Popen(argv, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        samples = [(time.time(), 0.0)]
        while command.poll() is None:
            time.sleep(_SECONDS_BETWEEN_SAMPLES)
            # a process that has ended between two samples would take its seconds along: the sum never falls
            samples.append((time.time(), max(samples[-1][1], cpu_seconds(command))))
        if command.returncode:
            output.seek(0)
            last = output.read().strip().rpartition("\n")[2]
            raise BadInput(f"dnachunker {arguments[0]} failed (exit code {command.returncode}): {last}")
    return samples


def cpu_seconds(command: psutil.Process) -> float:
    """CPU seconds of a process and its living descendants so far."""
    total = 0.0
    try:
        for process in [command, *command.children(recursive=True)]:
            times = process.cpu_times()
            total += times.user + times.system
    except psutil.Error:  # one has ended meanwhile
        return 0.0
    return total


def train(corpus: Path, run: Path, seed: int, steps: int, overrides: Sequence[str]) -> list[Point]:
    """Train one seed; its evaluations after training began."""
    settings = [f"seed={seed}", f"steps={steps}", *SETTINGS, *overrides]
    samples = measure("pretrain", "--config", "tiny", "--corpus", corpus, "--run", run, *settings)
    clock, cpu = np.array(samples).T
    points, bases = [], 0
    for event in read_events(run):
        if event["event"] == "step":
            bases += event["bases"]
        loss = headline_losses(event)[0] if event["event"] == "evaluation" else None
        if loss is not None and bases:
            points.append(Point(bases, round(float(np.interp(event["time"], clock, cpu)), 1), round(loss, 5)))
    return points


def first_at(points: Sequence[Point], mark: float) -> Point | None:
    """The first evaluation whose loss is at most `mark`."""
    return next((point for point in points if point.loss <= mark), None)


def table(rows: dict[str, dict]) -> str:
    """The Markdown page of all rows: `{name: {command, code, seeds: {seed: points}}}`."""
    lines = [
        "# Speedrun", "",
        "Training bases (millions) and CPU seconds (start and evaluations included) until the held-out [MASK] loss of",
        f"preset `tiny` is first at or below a mark. Trained on {TRAINED} of 23 vertebrates, held out {HELD_OUT} of",
        f"{SPECIES}; one rank, one thread, {STEP_BASES:,} bases a step, an evaluation of 256 windows every",
        f"{EVALUATED_EVERY} steps unless a row says otherwise. With several seeds: the mean, if all reach the mark.",
        "A few seeds are a first look.",
        "", "![held-out loss of each row](curve.svg)", "",
        f"| row | seeds | {' | '.join(f'{mark:.2f}' for mark in MARKS)} | last loss | at |",
        f"| --- | --- | {'--- | ' * len(MARKS)}--- | --- |",
    ]  # fmt: skip
    for name, row in rows.items():
        curves = [[Point(*point) for point in curve] for curve in row["seeds"].values()]
        cells = []
        for mark in MARKS:
            reached = [first_at(curve, mark) for curve in curves]
            hits = [point for point in reached if point]
            means = [statistics.mean(values) for values in zip(*hits, strict=True)] if len(hits) == len(curves) else []
            cells.append(
                f"{means[0] / 1e6:.2f} M, {means[1]:.0f} s" if means else f"{len(hits)} of {len(curves)} seeds"
            )
        ends = [curve[-1] for curve in curves]
        lowest = statistics.mean(point.loss for point in ends)
        cells += [f"{lowest:.4f}", f"{ends[0].bases / 1e6:.2f} M, {statistics.mean(p.cpu for p in ends):.0f} s"]
        lines.append(f"| {name} | {', '.join(row['seeds'])} | {' | '.join(cells)} |")
    lines += ["", *(f"- {name}: code {row['code']}, `{row['command']}`" for name, row in rows.items())]
    return "\n".join(lines) + "\n"


def curve(rows: dict[str, dict]) -> str:
    """An SVG of held-out loss against training bases, a line for each seed."""
    figure, axes = titled_figure("Held-out [MASK] loss (nats) against training bases (millions)", (7.2, 3.6))
    for number, (name, row) in enumerate(rows.items()):
        for place, points in enumerate(row["seeds"].values()):
            label = name if not place else None
            axes.plot([p[0] / 1e6 for p in points], [p[2] for p in points], color=f"C{number}", lw=1.3, label=label)
    for mark in MARKS:
        axes.axhline(mark, color="#6e7781", lw=0.8, ls=":")
    axes.set_ylim(top=1.38)
    axes.legend(frameon=False, fontsize=8)
    return svg_file(figure)


def describe(options: argparse.Namespace) -> list[str]:
    """The arguments that decide a row."""
    words = ["--row", options.row, "--bases", str(options.bases), "--seeds", *map(str, options.seeds)]
    return [*words, *(["--set", *options.set] if options.set else [])]


def run_all(options: argparse.Namespace) -> None:
    """Train every seed of one row and write the files."""
    folder, steps = genomes(), options.bases // STEP_BASES
    if fixed := next((item for item in options.set if item.startswith(_FIXED)), None):
        raise BadInput(f"--set {fixed}: the speedrun counts bases by its own value of this key; leave it out")
    if not steps:
        raise BadInput(f"--bases {options.bases} is less than a step; give at least {STEP_BASES}")
    with tempfile.TemporaryDirectory() as scratch:
        corpus = build_corpus(folder, Path(scratch))
        seeds = {
            str(seed): train(corpus, Path(scratch, f"seed-{seed}"), seed, steps, options.set) for seed in options.seeds
        }
    kept = options.output / "curves.json"
    rows = json.loads(kept.read_text()) if kept.is_file() else {}
    command = f'make speedrun ARGS="{" ".join(describe(options))}"'
    rows[options.row] = {"command": command, "code": code_version().get("commit", "")[:8], "seeds": seeds}
    options.output.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(rows) + "\n")
    (options.output / "table.md").write_text(table(rows))
    (options.output / "curve.svg").write_text(curve(rows))
    print(f"{options.output}/table.md")


def main() -> int:
    """Read the arguments; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", default="tiny", help="name of the row (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--bases", type=int, default=20_000_000, help="training bases (default: %(default)s)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override config keys of the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "speedrun", help="folder")
    try:
        run_all(parser.parse_args())
    except BadInput as error:
        print(f"speedrun: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())

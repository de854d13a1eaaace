"""`dnachunker demo`: the whole path on the embedded sample, each step the command a user would type."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.foundations.atomic_files import write_json
from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.pretrain.records.event_log import read_events
from dnachunker.pretrain.records.mlflow_mirror import read_cursor
from dnachunker.pretrain.run_folder import next_steps

SUMMARY = "summary.json"
_MARKER = ".dnachunker-demo"  # only a folder that holds this file is ever cleared


def run_demo(output: Path, *, steps: int | None = None) -> int:
    """Shard, pretrain, evaluate, export, load and report under `output`; returns the exit code.

    Raises:
        BadInput: `output` holds something that is not an earlier demo.
        Failure: a step failed; its own message stands above.
    """
    began = time.monotonic()
    _prepare(output)
    corpus, run, exported = output / "corpus", output / "run", output / "export"
    overrides = [] if steps is None else [f"steps={steps}"]

    _say("1/4 genomes to shards")
    _dnachunker("shard", "--config", "sample", "--output", corpus)
    _say("2/4 shards to a pretrained model: two workers, ZeRO stage 1")
    _dnachunker("pretrain", "--config", "tiny", "--corpus", corpus, "--run", run, "--processes", "2", *overrides)
    _say("3/4 model to a Hugging Face folder, loaded again in a fresh process")
    _dnachunker("export", run, exported)
    _say("4/4 the report")
    _dnachunker("report", run)
    (run / "report.html").replace(output / "report.html")

    summary = summarise(corpus, run, exported)
    write_json(output / SUMMARY, summary)
    _print_table(output, summary, time.monotonic() - began)
    return 0


def summarise(corpus: Path, run: Path, exported: Path) -> dict[str, Any]:
    """The demo's figures, read back from what the steps wrote."""
    index = Corpus.open(corpus).index
    bases = sum(split.bases for split in index.splits.values())
    stored = sum(split.bytes for split in index.splits.values())
    events = read_events(run)
    steps = [event for event in events if event["event"] == "step"]
    start = next(event for event in reversed(events) if event["event"] in ("start", "resume"))
    valid = next(event for event in reversed(events) if event["event"] == "evaluation")
    losses = ("masked_loss", "order0_loss", "order3_loss", "order5_loss", "masked_accuracy")
    return {
        "corpus": {
            "bases": bases,
            "blocks": sum(split.blocks for split in index.splits.values()),
            "bits_per_base": 8 * stored / bases,
        },
        "train": {
            "steps": steps[-1]["steps_done"],
            "world_size": start["world_size"],
            "zero_stage": start["zero_stage"],
            "bases_per_second": sum(step["bases"] for step in steps) / sum(step["seconds"] for step in steps),
        },
        "valid": {name: valid[name] for name in losses},
        "compression": valid["compression"],
        "export": json.loads((exported / "export.json").read_text()) | {"path": str(exported)},
        "mlflow": {"run_id": read_cursor(run).get("run_id")},
    }


def _prepare(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise BadInput(f"{output}: is a file; choose a folder with --output")
    if output.exists() and any(output.iterdir()) and not (output / _MARKER).exists():
        raise BadInput(f"{output}: holds something other than an earlier demo; choose another folder with --output")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / _MARKER).touch()


def _dnachunker(*arguments: str | Path) -> None:
    command = [str(argument) for argument in arguments]
    print(f"$ dnachunker {' '.join(command)}", flush=True)
    # always on the CPU, so that figures of different machines can be compared
    variables = {**os.environ, "DS_ACCELERATOR": "cpu"}
    process = subprocess.Popen([sys.executable, "-m", "dnachunker", *command], env=variables)
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue  # the step received the signal too: let it save and end by itself
    if code:
        failure = Failure(f"demo: `dnachunker {' '.join(command)}` ended with exit code {code}; its message is above")
        failure.code = code
        raise failure


def _say(line: str) -> None:
    print(f"\n== {line}", flush=True)


def _print_table(output: Path, summary: dict[str, Any], seconds: float) -> None:
    valid, train, compression = summary["valid"], summary["train"], summary["compression"]
    rows = {
        "corpus": f"{summary['corpus']['bases']:,} bases at {summary['corpus']['bits_per_base']:.2f} bits each",
        "training": f"{train['steps']} steps, {train['world_size']} workers, {train['bases_per_second']:,.0f} bases/s",
        "held-out [MASK] loss": f"{valid['masked_loss']:.4f} nats "
        f"(Markov order 0: {valid['order0_loss']:.4f}, 3: {valid['order3_loss']:.4f}, 5: {valid['order5_loss']:.4f})",
        "compression, unmasked": ", ".join(
            f"stage {stage} {share:.2f}" for stage, share in enumerate(compression.values())
        ),
        "export": f"{summary['export']['path']}, logits within {summary['export']['max_abs_diff']:.1e} of training",
        "took": f"{seconds:.0f} s",
    }
    print()
    for name, value in rows.items():
        print(f"  {name:<22} {value}")
    print(
        f"\nLook at it:   {output / 'report.html'}   (summary: {output / SUMMARY})\n"
        "Next:\n"
        f"{next_steps(output / 'run', output / 'export')}\n"
        f"  dnachunker dashboard {output / 'run'} --open     # loss, speed and settings in MLflow\n"
        f"  dnachunker pretrain --config tiny --corpus {output / 'corpus'} --run runs/longer steps=1000\n"
        "  dnachunker shard --help     # your own genomes"
    )

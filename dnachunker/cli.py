"""The front door: the `dnachunker` command. Parses the command line, then imports only the package of the verb."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from dnachunker.foundations.failures import BadInput, Failure
from dnachunker.foundations.version import __version__
from dnachunker.foundations.writable_caches import provide_caches

_CPU_PROCESSES = 2  # ranks of a training run on a machine without a GPU

_DESCRIPTION = """Pretrain DNA language models that learn their own tokens: from genomes to shards, from shards to a
DNACHUNKER model, from the model to a Hugging Face folder."""

_EPILOG = """the steps, in order:
  dnachunker demo                                            all steps on an embedded sample, in minutes
  dnachunker shard --config sample --output corpora/sample   build a corpus from genomes
  dnachunker pretrain --config tiny --corpus corpora/sample --run runs/first
  dnachunker export runs/first exported/first                 write a folder that AutoModelForMaskedLM loads
  dnachunker report runs/first                                write one HTML page about the run
  dnachunker dashboard runs                                   compare the runs of a folder in MLflow
  dnachunker finetune --model exported/first --task TASK --output runs/task   train a classifier, test it once

`dnachunker VERB --help` explains a verb. Arguments of the form a.b=c override keys of a config.
exit codes: 0 done, 2 bad input, 3 interrupted after saving (run the same command again), 4 a training guard fired"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. It imports only the `commands` module of each package, which is light."""
    from dnachunker.cluster import commands as cluster
    from dnachunker.dataprep import commands as dataprep
    from dnachunker.downstream import commands as downstream
    from dnachunker.experiments import commands as experiments
    from dnachunker.pretrain import commands as pretrain

    parser = argparse.ArgumentParser(
        prog="dnachunker",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dnachunker {__version__}")
    # functions that a verb needs from a package which its own package may not import
    parser.set_defaults(start_ranks=_start_ranks, count_processes=_count_processes, prepare=pretrain.prepare_run)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for package in (dataprep, pretrain, cluster, downstream, experiments):
        package.add_verbs(verbs)
    _add_demo(verbs)
    _add_dashboard(verbs)
    return parser


def _add_demo(verbs: Any) -> None:
    demo = verbs.add_parser(
        "demo", formatter_class=argparse.RawDescriptionHelpFormatter,
        help="all steps on an embedded sample, in minutes",
        description="Shard two embedded genomes, pretrain the preset `tiny` on two ranks with ZeRO stage 1, evaluate,\n"
        "export, load the export in a new process, and write summary.json and report.html. A second demo starts over\n"
        "in the same folder.",
    )  # fmt: skip
    demo.add_argument("--output", default="runs/demo", help="folder for all results (default: %(default)s)")
    demo.add_argument("--steps", type=int, help="training steps (default: those of the preset `tiny`)")
    demo.set_defaults(run_verb=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.demo import run_demo

    return run_demo(Path(arguments.output), steps=arguments.steps)


def _add_dashboard(verbs: Any) -> None:
    dashboard = verbs.add_parser(
        "dashboard", formatter_class=argparse.RawDescriptionHelpFormatter,
        help="MLflow's page on your runs, opened at the table that compares them",
        description="Start MLflow's server on this machine alone, on the store that runs of one folder share, and\n"
        "print the address of the runs table: sorted by held-out loss, with the columns that matter. Ctrl-C ends it.\n"
        "Of a tracking server, which runs already, only the address is printed.",
        epilog="examples:\n"
        "  dnachunker dashboard                     the store of the runs in runs/\n"
        "  dnachunker dashboard runs/demo --open    show it in a browser\n"
        "  dnachunker dashboard https://mlflow.example.org",
    )  # fmt: skip
    dashboard.add_argument(
        "place", nargs="?", metavar="FOLDER|URI",
        help="a run, a folder of runs, or a tracking URI (default: MLFLOW_TRACKING_URI, else runs)",
    )  # fmt: skip
    dashboard.add_argument("--open", action="store_true", help="open the address in a browser")
    dashboard.add_argument("--port", type=int, help="of the server (default: 5000, or a free one where 5000 is taken)")
    dashboard.set_defaults(run_verb=_dashboard)


def _dashboard(arguments: argparse.Namespace) -> int:
    from dnachunker.dashboard import run_dashboard

    return run_dashboard(arguments.place, port=arguments.port, show=arguments.open)


def _start_ranks(worker: list[str], processes: int) -> int:
    from dnachunker.cluster.backends.local import run_local, visible_gpus

    gpus = visible_gpus()
    if gpus and processes > len(gpus):
        raise BadInput(f"{processes} ranks need {processes} GPUs, but {len(gpus)} are visible; lower --processes")
    print(f"starting {processes} ranks on {'GPUs' if gpus else 'CPU'} ...", file=sys.stderr, flush=True)
    return run_local(worker, processes)


def _count_processes(configured: int | None) -> int:
    from dnachunker.cluster.backends.local import visible_gpus

    return configured or len(visible_gpus()) or _CPU_PROCESSES


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in ([], ["help"]):
        words = [*words[1:2], "--help"]  # `dnachunker help VERB` too
    parsed, left = parser.parse_known_args(words)
    # argparse accepts positional arguments in one place only, but overrides may stand before, between and after options
    if left and not (hasattr(parsed, "overrides") and all("=" in word and word[0] != "-" for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        parsed.overrides = [*parsed.overrides, *left]
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    # for every process started from here: Python must not import a file of the current folder as an installed module
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    parsed = _parse(arguments)
    provide_caches()
    try:
        return int(parsed.run_verb(parsed) or 0)
    except Failure as failure:
        print(f"dnachunker: {failure}", file=sys.stderr)
        return failure.code
    except BrokenPipeError:
        return 0  # the reader of our output, such as `head`, has closed the pipe
    except KeyboardInterrupt:
        print("dnachunker: interrupted", file=sys.stderr)
        return 130

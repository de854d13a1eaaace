"""The verbs `sweep` and `probe`: their arguments. The modules that do the work are imported when one runs."""

import argparse
from typing import Any

from dnachunker.foundations.presets import describe_presets

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    sweep = verbs.add_parser(
        "sweep", formatter_class=_RAW, help="train many runs (rows of overrides x seeds) and compare them in one table",
        description="Pretrain, export, probe and analyse every row of overrides with every seed, on equal budgets,\n"
        "and put them into one table (mean ± standard deviation over seeds) and one page of plots. Every row and\n"
        "seed is a cell with its own folder, made by `dnachunker` commands. A sweep may be killed at any time; the\n"
        "same command keeps finished cells and continues the others. If a cell fails, the others go on and the exit\n"
        "code is 1; the same command tries it again.",
        epilog="examples:\n"
        "  dnachunker sweep --config compression --output sweeps/compression --dry-run\n"
        "  dnachunker sweep --config mixers --output sweeps/mixers --jobs 2 seeds=[0,1] probe.folder=tasks\n"
        "  dnachunker sweep --config ablations --output sweeps/paper --on slurm --jobs 8 scale=50m\n"
        f"{describe_presets('experiments')}\n"
        "Each has a scale `tiny` for two CPU cores.\n"
        "OUT/table.md, table.csv, cells.csv and sweep.html hold the results, OUT/cells/ROW/seed-S/ a cell.\n"
        "docs/experiments.md has the costs and results of each preset.",
    )  # fmt: skip
    sweep.add_argument("--config", required=True, metavar="FILE|PRESET", help="YAML file, or a preset's name")
    sweep.add_argument("--output", metavar="OUT", help="folder to create or continue")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time (default: %(default)s)")
    sweep.add_argument(
        "--on", default="local", metavar="local|ray[:ADDRESS]|slurm",
        help="where cells run: here, on Ray (here or on a cluster), or as a SLURM array (default: %(default)s)",
    )  # fmt: skip
    sweep.add_argument("--cluster", default="slurm", metavar="FILE|PRESET", help="cluster config for --on slurm")
    sweep.add_argument("--dry-run", action="store_true", help="print every cell's commands and cost, and stop")
    sweep.add_argument("--tables", action="store_true", help="only write the tables of the finished cells")
    sweep.add_argument("--cell", metavar="ROW:SEED", help="run this cell alone and write no table")
    sweep.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    sweep.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="override config keys, such as seeds=[0], or cluster.slurm.time=2:00:00 for --on slurm",
    )
    sweep.set_defaults(run_verb=_sweep)

    probe = verbs.add_parser(
        "probe", formatter_class=_RAW, help="measure checkpoints of a run on tasks, variants or annotated genomes",
        description="Export every checkpoint of a run that has no result yet, the newest first, and measure it as\n"
        "evaluation.probes say: a linear classifier on a task, AUROC on labelled variants, or classes of bases. A run\n"
        "with such a config starts this command itself, at the lowest priority and on the CPU, and shows the results\n"
        "in its event log, its report and MLflow.",
        epilog="examples:\n"
        "  dnachunker pretrain --config tiny --corpus corpora/sample --run runs/probed \\\n"
        "      'evaluation.probes=[{task: sample:coding}]'\n"
        "  dnachunker probe runs/probed                # once more by hand, such as after a failure\n",
    )  # fmt: skip
    probe.add_argument("run_folder", metavar="RUN", help="run folder of `dnachunker pretrain`")
    probe.add_argument(
        "--follow", action="store_true", help="go on with later checkpoints, until the run's last step is measured"
    )
    probe.set_defaults(run_verb=_probe)


def _sweep(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.failures import BadInput
    from dnachunker.foundations.typed_config import explained_yaml, load_config

    from .config import SweepConfig

    cluster_words = [word for word in arguments.overrides if word.startswith("cluster.")]
    overrides = [word for word in arguments.overrides if word not in cluster_words]
    config = load_config(SweepConfig, arguments.config, overrides, kind="experiments")
    if arguments.print_config:
        print(explained_yaml(config), end="")
        return 0
    if not arguments.output:
        raise BadInput("--output is missing: the folder for the sweep's cells and tables")
    if arguments.jobs < 1:
        raise BadInput(f"--jobs {arguments.jobs}: must be 1 or more")

    where, _, address = arguments.on.partition(":")
    if where not in ("local", "ray", "slurm") or (address and where != "ray"):
        raise BadInput(f"--on {arguments.on}: write local, ray, ray:ADDRESS or slurm")
    if cluster_words and where != "slurm":
        raise BadInput(f"{cluster_words[0]!r} applies to --on slurm only; this sweep runs on {where}")

    from .sweep import dry_run, run_one_cell, run_sweep, submit_sweep, tables

    output = Path(arguments.output).absolute()  # steps may have another current folder
    if arguments.dry_run:
        dry_run(config, output)
        return 0
    if arguments.tables:
        return tables(config, output)
    if arguments.cell:
        return run_one_cell(config, output, arguments.cell)
    if where == "slurm":
        from dnachunker.cluster.config import ClusterConfig

        keys = [word.removeprefix("cluster.") for word in cluster_words]
        cluster = load_config(ClusterConfig, arguments.cluster, keys, kind="cluster")
        return submit_sweep(config, output, cluster, jobs=arguments.jobs)
    return run_sweep(config, output, jobs=arguments.jobs, ray=(address or "local") if where == "ray" else None)


def _probe(arguments: argparse.Namespace) -> int:
    import signal
    import sys
    from pathlib import Path

    from dnachunker.foundations.failures import Interrupted
    from dnachunker.pretrain.evaluation.probing import probes_line

    from .probing import probe

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Interrupted.code))  # so that the command under way is ended too
    failed = False
    for found in probe(Path(arguments.run_folder), follow=arguments.follow):
        print(probes_line(found), flush=True)
        failed = failed or bool(found["failed"])
    return int(failed and not arguments.follow)  # a run that follows has told of failures

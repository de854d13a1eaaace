"""The verbs `pretrain`, `plan`, `export` and `report`: arguments, and functions that import the modules at work."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from dnachunker.foundations.presets import describe_presets

from .planning.plan import PLAN_HELP, add_plan_arguments, run_plan

if TYPE_CHECKING:
    from pathlib import Path

    from .config import PretrainConfig

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command.

    The front door adds two functions to the arguments of `pretrain`, because `cluster/` starts processes:
    `start_ranks`, and `count_processes`, which says how many ranks that starts for `launch.processes`.
    """
    pretrain = verbs.add_parser(
        "pretrain", formatter_class=_RAW, help="train a model on a corpus, or continue a run",
        description="Train DNACHUNKER on a corpus made by `dnachunker shard`. Starts ranks with DeepSpeed's launcher:\n"
        "one for each GPU, or two on a machine without a GPU. An interrupted run (Ctrl-C, SIGTERM, SIGUSR1) saves,\n"
        "exits with code 3, and continues when the same command is given again.",
        epilog="examples:\n"
        "  dnachunker pretrain --config tiny --corpus corpora/sample --run runs/first\n"
        "  dnachunker pretrain --config tiny --corpus corpora/sample --run runs/long steps=2000 optimizer.lr=1e-3\n"
        "  dnachunker pretrain --config dnachunker-172m --corpus corpora/hg38 --run runs/paper\n"
        "  dnachunker pretrain --config tiny --corpus corpora/sample --run runs/here --resume-from s3://lab/first\n"
        f"{describe_presets('pretrain')}",
    )  # fmt: skip
    pretrain.add_argument("--config", required=True, metavar="FILE|PRESET", help="YAML file, or a preset's name")
    pretrain.add_argument("--corpus", help="corpus folder (short for data.corpus=...)")
    pretrain.add_argument("--run", help="run folder, created or continued (short for run=...)")
    pretrain.add_argument("--processes", type=int, help="ranks to start (short for launch.processes=...)")
    pretrain.add_argument(
        "--resume-from", metavar="FOLDER|URL",
        help="copies of checkpoints that a run folder without any goes on from (short for checkpoint.resume_from=...)",
    )  # fmt: skip
    pretrain.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    pretrain.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override config keys, such as steps=500")
    pretrain.set_defaults(run_verb=_pretrain)

    export = verbs.add_parser(
        "export", formatter_class=_RAW, help="turn a run's checkpoint into a Hugging Face folder",
        description="Write a folder that AutoModelForMaskedLM.from_pretrained(OUT, trust_remote_code=True) and\n"
        "AutoTokenizer.from_pretrained(OUT) load with torch, transformers and safetensors alone, then load it in a\n"
        "fresh process without this project and compare its logits with the training model's.",
        epilog="examples:\n"
        "  dnachunker export runs/first exported/first\n"
        "  dnachunker export runs/first exported/first --push my-lab/first --private\n"
        "  dnachunker export runs/first exported/first --register dnachunker --alias best",
    )  # fmt: skip
    export.add_argument("run_folder", metavar="RUN", help="run folder of `dnachunker pretrain`")
    export.add_argument("output", metavar="OUT", help="folder to create")
    export.add_argument("--step", type=int, help="default: the newest checkpoint whose next evaluation was sound")
    export.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    export.add_argument(
        "--license", default="apache-2.0", help="of the weights, on the model card (default: %(default)s)"
    )
    export.add_argument("--push", metavar="REPO", help="then upload OUT to this repository on the Hugging Face Hub")
    export.add_argument("--private", action="store_true", help="make a repository that --push creates private")
    export.add_argument(
        "--register", metavar="NAME", help="then log OUT as a model of the run in MLflow, and register it by this name"
    )
    export.add_argument("--alias", help="with --register: the alias of this version, such as `best`")
    export.set_defaults(run_verb=_export)

    report = verbs.add_parser(
        "report", formatter_class=_RAW, help="one self-contained HTML page about a run, or several side by side",
        description="Write one HTML page with interactive charts. Of one run: loss beside its baselines, compression\n"
        "over time, learned chunks, load of every machine. Of several: which is best, their curves against steps,\n"
        "bases, FLOPs and time, and the settings in which they differ.",
        epilog="examples:\n"
        "  dnachunker report runs/first                       # writes runs/first/report.html\n"
        "  dnachunker report runs/first --serve               # a page that follows the run while it goes on\n"
        "  dnachunker report runs/first runs/second           # writes runs/comparison.html",
    )  # fmt: skip
    report.add_argument("run_folders", metavar="RUN", nargs="+", help="run folder of `dnachunker pretrain`")
    report.add_argument("--output", metavar="FILE", help="default: RUN/report.html, or comparison.html beside the runs")
    report.add_argument("--serve", action="store_true", help="serve the page on this machine, kept fresh, until Ctrl-C")
    report.add_argument("--port", type=int, default=0, help="of --serve (default: a free one)")
    report.set_defaults(run_verb=_report)

    plan = verbs.add_parser("plan", help=PLAN_HELP)
    add_plan_arguments(plan)
    plan.set_defaults(run_verb=run_plan)


def _pretrain(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.typed_config import explained_yaml, load_config

    from .config import PretrainConfig
    from .run_folder import next_steps

    flags = {
        "data.corpus": arguments.corpus, "run": arguments.run, "launch.processes": arguments.processes,
        "checkpoint.resume_from": arguments.resume_from,
    }  # fmt: skip
    settings = {key: value for key, value in flags.items() if value is not None}
    config = load_config(PretrainConfig, arguments.config, arguments.overrides, kind="pretrain", settings=settings)
    if arguments.print_config:
        print(explained_yaml(config), end="")
        return 0

    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:  # a launcher started this process as a rank
        from dnachunker.foundations.failures import Failure

        from .worker import leave, run_worker

        try:
            if os.environ["RANK"] == "0":  # for all ranks, which share the run folder
                prepare_run(config, int(os.environ["WORLD_SIZE"]))
        except Failure as failure:
            print(f"dnachunker: {failure}", file=sys.stderr)
            leave(failure.code)  # not raised: a rank that tells no exit code counts as crashed
        run_worker(config)

    processes = arguments.count_processes(config.launch.processes)
    stored = prepare_run(config, processes)
    code = int(arguments.start_ranks(["dnachunker", "pretrain", "--config", str(stored)], processes))
    if not code:
        print(f"next:\n{next_steps(Path(config.run))}")
    return code


def prepare_run(config: "PretrainConfig", world_size: int) -> "Path":
    """Refuse a run that cannot work with so many ranks, then store its config; returns the config's path.

    Raises:
        BadInput: see `check_run` and `store_config`.
    """
    from dnachunker.pretrain.planning.checks import check_run

    from .run_folder import store_config

    check_run(config, world_size)
    return store_config(config)


def _export(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .run_folder import read_config

    run = Path(arguments.run_folder)
    config = read_config(run)  # refuses a wrong path before torch is imported
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # reading a checkpoint must not claim a GPU

    if arguments.private and not arguments.push:
        from dnachunker.foundations.failures import BadInput

        raise BadInput("export --private: name the repository with --push REPO")
    if arguments.push:
        from .export.push import check_target

        check_target(arguments.push)

    if arguments.register or arguments.alias:
        from .export.register import tracked_run

        tracked = tracked_run(run, config.tracking, arguments.register)

    from dnachunker.pretrain.export.export import export_run

    result = export_run(
        run, Path(arguments.output), step=arguments.step, overwrite=arguments.overwrite,
        name=arguments.push, license=arguments.license,
    )  # fmt: skip
    if result.warning:
        print(f"dnachunker: warning: {result.warning}", file=sys.stderr)
    print(
        f"exported step {result.step} to {result.path}; loaded in a fresh process without dnachunker: "
        f"logits differ from training by at most {result.max_abs_diff:.1e}"
    )
    if arguments.register:
        from .export.register import register_export

        version = register_export(tracked, result.path, arguments.register, step=result.step, alias=arguments.alias)
        print(f"registered in MLflow: models:/{arguments.register}/{version}")
    if arguments.push:
        from .export.push import push_folder

        print(f"pushed to {push_folder(result.path, arguments.push, private=arguments.private)}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .run_folder import read_config

    runs = [Path(folder) for folder in arguments.run_folders]
    for run in runs:
        read_config(run)  # refuses a wrong path before libraries are imported

    from dnachunker.pretrain.records.report import output_of, write_page

    output = output_of(runs, arguments.output)
    if arguments.serve:
        from dnachunker.pretrain.records.report_server import serve_report

        serve_report(runs, output, arguments.port)
    else:
        print(f"wrote {write_page(runs, output)}")
    return 0

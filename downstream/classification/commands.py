"""The verbs `finetune` and `evaluate`: their arguments. The modules that do the work are imported when a verb runs."""

import argparse
import os
import sys
from typing import Any

from dnachunker.downstream.arguments import at_least
from dnachunker.foundations.presets import describe_presets

_RAW = argparse.RawDescriptionHelpFormatter
_METHODS = ("full", "lora", "probe", "kmer", "random-full", "random-probe")


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    finetune = verbs.add_parser(
        "finetune", formatter_class=_RAW, help="train an exported model to classify sequences, and test it once",
        description="Fine-tune an exported model on classification tasks, and train baselines to compare it with. A\n"
        "task is a folder with the files train and test, and perhaps dev: CSV or TSV with the columns sequence and\n"
        "label, FASTA whose headers end in |LABEL, or parquet. Text may be .gz, .bgz or .zst. The score on dev,\n"
        "or on a tenth of train, decides when training stops. The test file is read once, after training.\n\n"
        "methods: full (all weights), lora, probe (frozen, linear head), kmer (logistic regression on 6-mers),\n"
        "random-full and random-probe (the same network without its pretraining)",
        epilog="examples:\n"
        "  dnachunker finetune --model exported/first --task sample:coding --output runs/coding\n"
        "  dnachunker finetune --model exported/first --task tasks/gue_mouse_2 --output runs/mouse\n"
        "  dnachunker finetune --model exported/first --task A --task B --output runs/compare \\\n"
        "      --method full --method probe --method kmer --method random-full learning_rate=1e-3 epochs=3\n\n"
        "OUT/table.md, .csv and .html hold every score with its interval. OUT/TASK/METHOD/ holds the predictions and\n"
        "the classifier; AutoModelForSequenceClassification loads it. The same command again keeps finished results.",
    )  # fmt: skip
    finetune.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    finetune.add_argument(
        "--task",
        action="append",
        required=True,
        metavar="DIR",
        help="task folder, or sample:coding, which ships with the package; may be repeated",
    )
    finetune.add_argument("--output", required=True, metavar="DIR", help="folder to create or continue")
    finetune.add_argument(
        "--method", action="append", choices=_METHODS, help="method to train; may be repeated (default: full)"
    )
    finetune.add_argument(
        "--processes",
        type=at_least(1),
        default=1,
        metavar="N",
        help="ranks on this machine that train together (default: 1)",
    )
    _add_config(finetune, "finetune", "learning_rate=1e-3 rc_average=false")
    finetune.set_defaults(run_verb=_finetune)

    evaluate = verbs.add_parser(
        "evaluate", formatter_class=_RAW, help="score an exported model on a benchmark suite: select, then test once",
        description="Evaluate an exported model. Cross-validation on the training data chooses one setting of a grid.\n"
        "The chosen setting is trained with several seeds, and only these models see the test data. Every training is\n"
        "a cell with its own result file, so a killed evaluation continues where it stopped.\n\n"
        "suites: nt, nt-revised, genomic-benchmarks (fetched by `dnachunker tasks fetch`), gue (its authors' archive,\n"
        "unpacked), or a folder of task folders",
        epilog="examples:\n"
        "  dnachunker evaluate --model exported/first --suite sample:coding --output runs/quick --config quick\n"
        "  dnachunker evaluate --model exported/first --suite tasks --output runs/quick --config quick\n"
        "  dnachunker evaluate --model exported/paper --suite nt --data data/nt --output runs/nt --ray local\n"
        "  dnachunker evaluate --model exported/first --suite tasks --output runs/small --method probe \\\n"
        "      --method kmer folds=5 seeds=5 training.epochs=3\n\n"
        f"{describe_presets('downstream')}\n\n"
        "OUT/table.md, .csv and .html hold the scores, and published scores that are marked as such.\n"
        "OUT/selection.csv holds every setting's score by fold, OUT/cells every seed's predictions.",
    )  # fmt: skip
    evaluate.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    evaluate.add_argument(
        "--suite", required=True, metavar="NAME|DIR", help="name of a suite, a folder of task folders, or sample:coding"
    )
    evaluate.add_argument("--data", metavar="DIR", help="folder with the tasks of a named suite")
    evaluate.add_argument(
        "--corpus", metavar="DIR|URL",
        help="corpus of the model: the tables then say how much of each test set its training split holds",
    )  # fmt: skip
    evaluate.add_argument("--output", required=True, metavar="DIR", help="folder to create or continue")
    evaluate.add_argument(
        "--method", action="append", choices=_METHODS, help="method to evaluate; may be repeated (default: full)"
    )
    evaluate.add_argument(
        "--ray", default="none", metavar="none|local|ADDRESS",
        help="where cells run: one after another in this process (none, the default), on Ray here, or on a Ray cluster",
    )  # fmt: skip
    evaluate.add_argument(
        "--workers", type=at_least(1), default=2, metavar="N", help="cells at a time with --ray local (default: 2)"
    )
    evaluate.add_argument(
        "--mlflow", metavar="URI|none",
        help="MLflow server that gets the results (default: MLFLOW_TRACKING_URI, else mlflow.db beside OUT)",
    )  # fmt: skip
    _add_config(evaluate, "paper", "folds=5 training.epochs=3")
    evaluate.set_defaults(run_verb=_evaluate)


def _add_config(verb: argparse.ArgumentParser, preset: str, example: str) -> None:
    verb.add_argument(
        "--config", default=preset, metavar="FILE|PRESET", help="YAML file, or a preset (default: %(default)s)"
    )
    verb.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"override config keys, such as {example}")


def _finetune(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.typed_config import explained_yaml, load_config

    from .config import TrainingConfig

    config = load_config(TrainingConfig, arguments.config, arguments.overrides, kind="downstream")
    if arguments.print_config:
        print(explained_yaml(config), end="")
        return 0
    if arguments.processes > 1 and "WORLD_SIZE" not in os.environ:
        return int(arguments.start_ranks(["dnachunker", *sys.argv[1:]], arguments.processes))

    from .finetune import finetune

    tables = finetune(
        Path(arguments.model), [Path(task) for task in arguments.task],
        tuple(dict.fromkeys(arguments.method or ["full"])), Path(arguments.output), config,
    )  # fmt: skip
    if tables:
        print(tables[0].read_text("utf-8"))
        print(f"wrote {', '.join(map(str, tables))}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.mlflow_store import tracking_uri
    from dnachunker.foundations.typed_config import explained_yaml, load_config

    from .protocol import ProtocolConfig

    config = load_config(ProtocolConfig, arguments.config, arguments.overrides, kind="downstream")
    if arguments.print_config:
        print(explained_yaml(config), end="")
        return 0

    from .evaluate import evaluate

    output = Path(arguments.output)
    uri = tracking_uri(arguments.mlflow, output)
    tables = evaluate(
        Path(arguments.model), arguments.suite, Path(arguments.data) if arguments.data else None,
        tuple(dict.fromkeys(arguments.method or ["full"])), output, config,
        ray=None if arguments.ray == "none" else arguments.ray, workers=max(1, arguments.workers),
        mlflow=None if uri == "none" else uri, corpus=arguments.corpus,
    )  # fmt: skip
    print(tables[0].read_text("utf-8"))
    print(f"wrote {', '.join(map(str, tables))}")
    return 0

"""The verbs that use an exported model: arguments here, work in the modules they import when run."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

# Runs ranks of a module with arguments on this machine and returns their exit code.
StartRanks = Callable[[list[str], int], int]

_RAW = argparse.RawDescriptionHelpFormatter
_METHODS = ("full", "lora", "probe", "kmer", "random-full", "random-probe")


def add_verbs(verbs: Any, *, start_ranks: StartRanks) -> None:
    """Add this package's verbs to the `dnachunker` command.

    Args:
        start_ranks: how `finetune --processes N` starts its ranks; given by the front door.
    """
    finetune = verbs.add_parser(
        "finetune", formatter_class=_RAW, help="train an exported model to classify sequences, and test it once",
        description="Fine-tune an exported model on classification tasks, beside what it has to beat. A task is a\n"
        "folder with train, perhaps dev, and test files: CSV or TSV with the columns sequence and label, FASTA whose\n"
        "headers end in |LABEL, or parquet; plain or .gz. Training stops by the dev file, or by a tenth of train.\n"
        "The test file is read once, after training.\n\n"
        "methods: full (all weights), lora, probe (frozen, linear head), kmer (logistic regression on 6-mers),\n"
        "random-full and random-probe (the same network without its pretraining)",
        epilog="examples:\n"
        "  dnachunker finetune --model exported/first --task tasks/gue_mouse_2 --output runs/mouse\n"
        "  dnachunker finetune --model exported/first --task A --task B --output runs/compare \\\n"
        "      --method full --method probe --method kmer --method random-full learning_rate=1e-3 epochs=3\n\n"
        "OUT/table.md, .csv and .html hold every score with its interval; OUT/TASK/METHOD/ the predictions and the\n"
        "classifier, which AutoModelForSequenceClassification loads. Running the command again keeps what is done.",
    )  # fmt: skip
    finetune.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    finetune.add_argument("--task", action="append", required=True, metavar="DIR", help="task folder; may be repeated")
    finetune.add_argument("--output", required=True, metavar="DIR", help="folder to create or continue")
    finetune.add_argument(
        "--method", action="append", choices=_METHODS, help="may be repeated (default: full)"
    )  # fmt: skip
    finetune.add_argument("--processes", type=int, default=1, metavar="N", help="train on N ranks of this machine")
    _add_config(finetune, "finetune", "learning_rate=1e-3 rc_average=false")
    finetune.set_defaults(run_verb=_finetune, start_ranks=start_ranks)


def _add_config(verb: argparse.ArgumentParser, preset: str, example: str) -> None:
    verb.add_argument(
        "--config", default=preset, metavar="FILE|PRESET", help="YAML file, or a preset (default: %(default)s)"
    )
    verb.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"override config keys, such as {example}")


def _finetune(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from typed_config import load_config, to_yaml

    from .training_config import TrainingConfig

    config = load_config(TrainingConfig, arguments.config, arguments.overrides, kind="downstream")
    if arguments.print_config:
        print(to_yaml(config), end="")
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

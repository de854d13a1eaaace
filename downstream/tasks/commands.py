"""The verb `tasks`: its arguments. The modules that do the work are imported when it runs."""

import argparse
from typing import Any

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    tasks = verbs.add_parser(
        "tasks", formatter_class=_RAW, help="list benchmark suites, and fetch their tasks",
        description="List benchmark suites, or fetch their tasks. nt and nt-revised come from the Hugging Face hub.\n"
        "genomic-benchmarks is cut from reference genomes that you have, at its published coordinates. gue is an\n"
        "archive of its authors: unpack it, and `evaluate --suite gue --data DIR` takes it as it is.",
        epilog="examples:\n"
        "  dnachunker tasks list\n"
        "  dnachunker tasks fetch nt --output data/nt\n"
        "  dnachunker tasks fetch genomic-benchmarks --output data/gb --task human_nontata_promoters \\\n"
        "      --genome Homo_sapiens.GRCh38=hg38.fa.gz",
    )  # fmt: skip
    inner = tasks.add_subparsers(dest="tasks_verb", required=True, metavar="list|fetch")
    inner.add_parser("list", help="list suites and their tasks")
    fetch = inner.add_parser("fetch", help="write tasks into a folder of task folders")
    fetch.add_argument("suite", help="nt, nt-revised or genomic-benchmarks")
    fetch.add_argument("--output", required=True, metavar="DIR", help="folder to create or complete")
    fetch.add_argument(
        "--task", action="append", default=[], metavar="NAME", help="task; may be repeated (default: all)"
    )
    fetch.add_argument(
        "--genome", action="append", default=[], metavar="NAME=FASTA",
        help="local copy of a reference; NAME begins its file name: Homo_sapiens.GRCh38=hg38.fa.gz; may be repeated",
    )  # fmt: skip
    fetch.add_argument(
        "--source", metavar="URL|DIR", help="source of the coordinates (default: the suite's repository)"
    )
    fetch.add_argument("--endpoint", metavar="URL", help="Hugging Face hub (default: HF_ENDPOINT, else the public one)")
    tasks.set_defaults(run_verb=_tasks)


def _tasks(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.failures import BadInput

    if arguments.tasks_verb == "list":
        from .task_folders import SAMPLE_TASKS, SUITES, load_suite

        for name in SAMPLE_TASKS:
            print(f"{name}: ships with the package; `finetune --task {name}` and `evaluate --suite {name}` take it")
        for name in SUITES:
            suite = load_suite(name)
            print(f"{name}: {suite.title}; {suite.licence}; {suite.source}: {suite.repository}")
            for task, facts in suite.tasks.items():
                length = f"{facts.length:,} bases" if facts.length else "various lengths"
                print(f"  {task:34} {facts.classes} classes, {length}")
        return 0

    from .hub import fetch_suite

    genomes = {}
    for text in arguments.genome:
        name, equals, path = text.partition("=")
        if not equals:
            raise BadInput(f"--genome {text}: write NAME=FASTA, such as Homo_sapiens.GRCh38=hg38.fa.gz")
        genomes[name] = Path(path)
    for line in fetch_suite(
        arguments.suite, Path(arguments.output), tasks=arguments.task, genomes=genomes,
        source=arguments.source, endpoint=arguments.endpoint,
    ):  # fmt: skip
        print(line)
    return 0

"""The verb `tasks`: arguments here, work in the modules it imports when run."""

import argparse
from typing import Any

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    tasks = verbs.add_parser(
        "tasks", formatter_class=_RAW, help="list benchmark suites, and fetch their tasks",
        description="Benchmark suites by name: nt and nt-revised from the Hugging Face hub; genomic-benchmarks cut\n"
        "anew from its published coordinates and reference genomes that you have.",
        epilog="examples:\n"
        "  dnachunker tasks list\n"
        "  dnachunker tasks fetch nt --output data/nt\n"
        "  dnachunker tasks fetch genomic-benchmarks --output data/gb --task human_nontata_promoters \\\n"
        "      --genome Homo_sapiens.GRCh38=hg38.fa.gz",
    )  # fmt: skip
    inner = tasks.add_subparsers(dest="tasks_verb", required=True, metavar="list|fetch")
    inner.add_parser("list", help="suites and their tasks")
    fetch = inner.add_parser("fetch", help="make a folder of task folders")
    fetch.add_argument("suite", help="nt, nt-revised or genomic-benchmarks")
    fetch.add_argument("--output", required=True, metavar="DIR", help="folder to create or complete")
    fetch.add_argument("--task", action="append", default=[], metavar="NAME", help="may be repeated (default: all)")
    fetch.add_argument(
        "--genome", action="append", default=[], metavar="NAME=FASTA",
        help="reference by the beginning of its file name, such as Homo_sapiens.GRCh38=hg38.fa.gz; may be repeated",
    )  # fmt: skip
    fetch.add_argument("--source", metavar="URL|DIR", help="where coordinates are (default: the suite's repository)")
    fetch.add_argument("--endpoint", metavar="URL", help="of the Hugging Face hub (default: HF_ENDPOINT or the public)")
    tasks.set_defaults(run_verb=_tasks)


def _tasks(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.failures import BadInput

    if arguments.tasks_verb == "list":
        from dnachunker.downstream.tasks.task_folders import SUITES, load_suite

        for name in SUITES:
            suite = load_suite(name)
            print(f"{name}: {suite.title}; {suite.licence}; {suite.source}: {suite.repository}")
            for task, facts in suite.tasks.items():
                length = f"{facts.length:,} bases" if facts.length else "various lengths"
                print(f"  {task:34} {facts.classes} classes, {length}")
        return 0

    from dnachunker.downstream.tasks.hub import fetch_suite

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

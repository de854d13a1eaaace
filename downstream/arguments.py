"""Arguments that several verbs share."""

import argparse


def add_genome_arguments(verb: argparse.ArgumentParser) -> None:
    """Which model reads which part of which genome, and how much at a time."""
    verb.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    verb.add_argument("--fasta", required=True, metavar="FILE", help="genome, plain or gzipped")
    verb.add_argument(
        "--region", action="append", default=[], metavar="CONTIG[:START-END]|BED",
        help="1-based, ends included; may be repeated (default: everything)",
    )  # fmt: skip
    verb.add_argument("--window", type=int, metavar="BASES", help="read at a time (default: as in pretraining)")
    verb.add_argument("--flank", type=int, metavar="BASES", help="context on each side (default: window / 8)")

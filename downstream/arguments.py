"""Arguments that several verbs share."""

import argparse
from collections.abc import Callable

from dnachunker.foundations.whole_numbers import whole_number

GENOME_HELP = "genome as `dnachunker shard` reads it: FASTA (plain, gzip, bgzip, zstd) or .2bit"


def at_least(least: int) -> Callable[[str], int]:
    """A type of arguments: whole numbers that are not less than `least`."""

    def parse(text: str) -> int:
        try:
            number = whole_number(text)
        except ValueError:
            number = -1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number of at least {least}")
        return number

    return parse


def _window(text: str) -> int | str:
    return text if text == "whole" else at_least(1)(text)


def add_genome_arguments(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that name the model, the genome, its regions and the window length."""
    verb.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    verb.add_argument("--fasta", required=True, metavar="FILE", help=GENOME_HELP)
    verb.add_argument(
        "--region", action="append", default=[], metavar="CONTIG[:START-END]|BED",
        help="region to read, 1-based, both ends included; may be repeated (default: the whole genome)",
    )  # fmt: skip
    verb.add_argument(
        "--window", type=_window, metavar="BASES|whole",
        help="bases the model reads at a time (default: as in pretraining); whole: each contig in one stretch",
    )  # fmt: skip
    verb.add_argument(
        "--flank",
        type=at_least(0),
        metavar="BASES",
        help="bases at each end of a window that are context only (default: window / 8); not with --window whole",
    )


def add_features_argument(verb: argparse.ArgumentParser) -> None:
    """Add the argument that chooses features of annotation files."""
    verb.add_argument(
        "--features", action="extend", nargs="+", default=[], metavar="KIND",
        help="kinds of features to read, such as exon CDS (default: all but records of a whole contig)",
    )  # fmt: skip

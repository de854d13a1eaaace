"""The verbs that use an exported model: `embed` here, each other verb in the sub-package that does its work."""

import argparse
from typing import Any

from .arguments import add_genome_arguments
from .classification import commands as classification
from .generation import commands as generation
from .per_base import commands as per_base
from .studies import commands as studies
from .tasks import commands as tasks
from .tracks import commands as tracks
from .variants import commands as variants

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    for before in (tasks, classification, per_base, tracks, variants):
        before.add_verbs(verbs)
    embed = verbs.add_parser(
        "embed", formatter_class=_RAW, help="vectors of sequences: one per region, per chunk or per base",
        description="Run sequences through an exported model and store its vectors, by --level:\n"
        "  mean   one vector per listed region or record: the average over its bases\n"
        "  chunk  one vector per chunk of --stage: the average over its bases\n"
        "  base   one vector per base",
        epilog="examples:\n"
        "  dnachunker embed --model exported/first --fasta seqs.fa --output means.parquet\n"
        "  dnachunker embed --model exported/first --fasta hg38.fa --region chr2:1-100,000 --level base \\\n"
        "      --output bases.zarr\n\n"
        "Regions stay in the order in which they are listed, and are not merged. A Parquet file has one row per\n"
        "vector: region (its place in the list, from 0), name, contig, start, end, vector. A Zarr folder has one\n"
        "group per region with the arrays `vectors` (n, D), `starts` and `ends`. Vectors are float32.",
    )  # fmt: skip
    add_genome_arguments(embed)
    embed.add_argument(
        "--level",
        choices=("mean", "chunk", "base"),
        default="mean",
        help="unit that a vector stands for (default: %(default)s)",
    )
    embed.add_argument("--stage", type=int, metavar="N", help="stage of the chunks, from 0 on (default: the last)")
    embed.add_argument("--output", required=True, metavar="OUT.parquet|OUT.zarr", help="output to create")
    embed.set_defaults(run_verb=_embed)
    for after in (generation, studies):
        after.add_verbs(verbs)


def _embed(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .embed import EmbedOptions, embed

    options = EmbedOptions(
        arguments.level, arguments.stage, tuple(arguments.region), arguments.window, arguments.flank
    )  # fmt: skip
    rows = embed(Path(arguments.model), Path(arguments.fasta), Path(arguments.output), options)
    print(f"{rows:,} vectors; wrote {arguments.output}")
    return 0

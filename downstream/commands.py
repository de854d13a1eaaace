"""The verbs that use an exported model: `embed` here, the others where their work is."""

import argparse
from typing import Any

from .arguments import add_genome_arguments
from .classification import commands as classification
from .generation import commands as generation
from .studies import commands as studies
from .tasks import commands as tasks
from .tracks import commands as tracks
from .variants import commands as variants

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    for before in (tasks, classification, tracks, variants):
        before.add_verbs(verbs)
    embed = verbs.add_parser(
        "embed", formatter_class=_RAW, help="vectors of sequences: one each, one per chunk, or one per base",
        description="Run sequences through an exported model and store its vectors. mean: one vector per region,\n"
        "chunk: one per chunk of --stage with its coordinates, both averaged over bases; base: one per base.",
        epilog="examples:\n"
        "  dnachunker embed --model exported/first --fasta seqs.fa --output means.parquet\n"
        "  dnachunker embed --model exported/first --fasta hg38.fa --region chr2:1-100,000 --level base \\\n"
        "      --output bases.zarr\n\n"
        "Parquet holds a row per vector: contig, start, end, vector. Zarr holds for each region a group with the\n"
        "array `vectors` (n, D), and `starts`, `ends`. Vectors are float32.",
    )  # fmt: skip
    add_genome_arguments(embed)
    embed.add_argument("--level", choices=("mean", "chunk", "base"), default="mean", help="default: %(default)s")
    embed.add_argument("--stage", type=int, default=1, help="whose chunks: 0 inner, 1 outer (default: %(default)s)")
    embed.add_argument("--output", required=True, metavar="OUT.parquet|OUT.zarr", help="to create")
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

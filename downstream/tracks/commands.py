"""The verb `segment`: its arguments. The modules that do the work are imported when it runs."""

import argparse
from typing import Any

from dnachunker.downstream.arguments import add_features_argument, add_genome_arguments

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    segment = verbs.add_parser(
        "segment", formatter_class=_RAW, help="how a model cuts a genome: BED, bigWig, and an HTML page",
        description="Cut a genome, or regions of it, into the model's chunks. OUT/stage0.bed and stage1.bed hold the\n"
        "chunks and the chunks of chunks; every base of the regions is in exactly one of each. stage0.bw holds the\n"
        "boundary probability of every base, stage1.bw that of every start of a stage-0 chunk. UCSC and IGV load all\n"
        "four.",
        epilog="examples:\n"
        "  dnachunker segment --model exported/first --fasta hg38.fa --region chr2:100,001-300,000 --output tracks\n"
        "  dnachunker segment --model exported/first --fasta genome.fa.gz --region peaks.bed --output tracks \\\n"
        "      --html --annotation genes.gtf --annotation rmsk.out\n\n"
        "Long sequence is read in windows that overlap by two flanks; each base is taken from the window in which it\n"
        "is farthest from an end. --html adds OUT/viewer.html: one page that zooms from the region to its letters.",
    )  # fmt: skip
    add_genome_arguments(segment)
    segment.add_argument("--output", required=True, metavar="DIR", help="folder to create")
    segment.add_argument("--html", action="store_true", help="also write OUT/viewer.html; regions up to 2 Mb each")
    segment.add_argument(
        "--annotation", action="append", default=[], metavar="FILE",
        help="BED, GTF, GFF or RepeatMasker .out to show on the page; may be repeated",
    )  # fmt: skip
    add_features_argument(segment)
    segment.add_argument("--overwrite", action="store_true", help="replace an earlier segmentation in OUT")
    segment.set_defaults(run_verb=_segment)


def _segment(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .segment import SegmentOptions, segment

    output = Path(arguments.output)
    options = SegmentOptions(
        tuple(arguments.region), arguments.window, arguments.flank, arguments.html,
        tuple(Path(path) for path in arguments.annotation), tuple(arguments.features), arguments.overwrite,
    )  # fmt: skip
    found = segment(Path(arguments.model), Path(arguments.fasta), output, options)
    lengths = ", ".join(f"stage {stage} {mean:.2f}" for stage, mean in enumerate(found["mean_chunk_bases"]))
    print(f"{found['bases']:,} bases; mean chunk length in bases: {lengths}; wrote {output}")
    return 0

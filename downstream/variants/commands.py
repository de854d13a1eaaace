"""The verb `score-variants`: its arguments. The modules that do the work are imported when it runs."""

import argparse
from typing import Any

from dnachunker.downstream.arguments import GENOME_HELP, at_least

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    variants = verbs.add_parser(
        "score-variants", formatter_class=_RAW, help="score the variants in a VCF",
        description="Write the VCF again with new INFO fields, each with one value per ALT:\n"
        "  DNC_LLR         log-likelihood ratio of the masked alleles in nats, averaged over strands;\n"
        "                  negative: the reference is likelier\n"
        "  DNC_SHIFT0, 1   change of the chunk boundaries nearby at each stage, 0 to 1\n"
        "  DNC_STATUS      scored, or the reason why not: reference_mismatch, unknown_contig, outside_contig,\n"
        "                  no_sequence (symbolic ALT), reference_n, no_change, too_long, mostly_n\n"
        "stderr names the lines that are not scored.",
        epilog="example:\n"
        "  dnachunker score-variants --model exported/first --fasta hg38.fa --vcf in.vcf.gz --output scored.vcf\n\n"
        "After a kill, the same command continues. If most lines contradict the genome, nothing is scored.",
    )  # fmt: skip
    variants.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    variants.add_argument("--fasta", required=True, metavar="FILE", help=GENOME_HELP)
    variants.add_argument("--vcf", required=True, metavar="FILE", help="variants: VCF (plain or compressed) or BCF")
    variants.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="file to create: .vcf, .vcf.gz (bgzip, with an index) or .bcf (with an index)",
    )
    variants.add_argument(
        "--context", type=at_least(1), metavar="BASES", help="window around a variant (default: as in pretraining)"
    )
    variants.add_argument(
        "--radius",
        type=at_least(0),
        default=100,
        metavar="BASES",
        help="reach of DNC_SHIFT* on each side (default: %(default)s)",
    )
    variants.add_argument(
        "--longest",
        type=at_least(1),
        default=50,
        metavar="BASES",
        help="longest allele that is scored (default: %(default)s)",
    )
    variants.add_argument("--no-shifts", action="store_true", help="leave out DNC_SHIFT*, which take most of the time")
    variants.set_defaults(run_verb=_score_variants)


def _score_variants(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .score_vcf import VariantOptions, score_vcf

    options = VariantOptions(arguments.context, arguments.radius, arguments.longest, not arguments.no_shifts)
    output = Path(arguments.output)
    counts = score_vcf(Path(arguments.model), Path(arguments.fasta), Path(arguments.vcf), output, options)
    print(f"{', '.join(f'{status} {count:,}' for status, count in sorted(counts.items()))}; wrote {output}")
    return 0

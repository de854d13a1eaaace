"""The verb `score-variants`: arguments here, work in the modules it imports when run."""

import argparse
from typing import Any

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    variants = verbs.add_parser(
        "score-variants", formatter_class=_RAW, help="what a model makes of the variants in a VCF",
        description="Write the VCF again with INFO fields of one value for each ALT: DNC_LLR, the log-likelihood\n"
        "ratio of the masked alleles, averaged over strands (negative: the reference is likelier); DNC_SHIFT0 and 1,\n"
        "how far it moves chunk boundaries nearby at each stage, 0 to 1; DNC_STATUS, scored or why not:\n"
        "reference_mismatch, unknown_contig, outside_contig, no_sequence (symbolic ALT), reference_n, no_change,\n"
        "too_long, mostly_n. Lines that are not scored are also named on stderr.",
        epilog="example:\n"
        "  dnachunker score-variants --model exported/first --fasta hg38.fa --vcf in.vcf.gz --output scored.vcf\n\n"
        "A killed command continues when it is given again. Where most lines contradict the genome, nothing is run.",
    )  # fmt: skip
    variants.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    variants.add_argument("--fasta", required=True, metavar="FILE", help="the VCF's reference, plain or gzipped")
    variants.add_argument("--vcf", required=True, metavar="FILE", help="variants, plain or gzipped")
    variants.add_argument("--output", required=True, metavar="FILE", help="VCF to create")
    variants.add_argument(
        "--context", type=int, metavar="BASES", help="window around a variant (default: pretraining's)"
    )
    variants.add_argument(
        "--radius", type=int, default=100, metavar="BASES", help="of DNC_SHIFT* (default: %(default)s)"
    )
    variants.add_argument(
        "--longest", type=int, default=50, metavar="BASES", help="allele scored (default: %(default)s)"
    )
    variants.set_defaults(run_verb=_score_variants)


def _score_variants(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.downstream.variants.score_vcf import VariantOptions, score_vcf

    options = VariantOptions(arguments.context, arguments.radius, arguments.longest)
    output = Path(arguments.output)
    counts = score_vcf(Path(arguments.model), Path(arguments.fasta), Path(arguments.vcf), output, options)
    print(f"{', '.join(f'{status} {count:,}' for status, count in sorted(counts.items()))}; wrote {output}")
    return 0

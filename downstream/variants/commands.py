"""The verbs `score-variants` and `variants`: their arguments. Modules that do the work are imported when one runs."""

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
    _add_benchmark(verbs)


def _add_benchmark(verbs: Any) -> None:
    nouns = verbs.add_parser("variants", help="benchmark the scores of labelled variants")
    inner = nouns.add_subparsers(required=True, metavar="benchmark")
    verb = inner.add_parser(
        "benchmark", formatter_class=_RAW, help="AUROC and AUPRC of a model's scores, beside baselines",
        description="Score labelled variants, and rank them by each score: the model's likelihood ratio, what only\n"
        "its architecture shows (shifts of chunk boundaries, changes of chunk vectors, entropy) and a regression\n"
        "on these, the same with random weights, Markov chains counted on the corpus, and columns of the file.\n"
        "Writes page.html, table.md, results.json and variants.tsv.",
        epilog="examples:\n"
        "  dnachunker variants benchmark --model exported/first --fasta hg38.fa --vcf brca1.vcf.gz \\\n"
        "      --label INFO/CLS=LOF --against INFO/CADD --by INFO/CONSEQ --corpus corpora/first --output out/brca1\n"
        "  dnachunker variants benchmark --model exported/first --suite satmut --data downloads --fasta hg38.fa \\\n"
        "      --output out/satmut\n\n"
        "A column of a VCF is INFO/KEY, ID, QUAL or FILTER; a column of a table has its own name. Columns of a suite\n"
        "give way to those of the command line.",
    )  # fmt: skip
    verb.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    verb.add_argument("--suite", metavar="NAME", help="brca1, clinvar, satmut or traitgym: label and columns known")
    verb.add_argument("--data", metavar="DIR", help="folder with the files of the suite, which you have fetched")
    verb.add_argument("--fasta", metavar="FILE", help=GENOME_HELP)
    verb.add_argument(
        "--vcf", metavar="FILE",
        help="variants: VCF, BCF, or a .tsv, .csv or .parquet with the columns chrom, pos, ref and alt",
    )  # fmt: skip
    verb.add_argument(
        "--label", metavar="CONDITION",
        help="what is positive: INFO/CLS=LOF (all else is negative), INFO/CLS=LOF:FUNC (these are negative, others "
        "are left out) or P-Value<1e-5; several values between commas",
    )  # fmt: skip
    verb.add_argument(
        "--only", action="append", default=[], metavar="CONDITION", help="leave out others; may be repeated"
    )
    verb.add_argument(
        "--against", action="append", default=[], metavar="COLUMN",
        help="column with another score, of which high values count as positive; may be repeated",
    )  # fmt: skip
    verb.add_argument("--by", metavar="COLUMN", help="column of the strata")
    verb.add_argument(
        "--corpus", metavar="CORPUS",
        help="the model's training corpus: for Markov chains, and to look for the variants' surroundings in it",
    )  # fmt: skip
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to create")
    verb.add_argument(
        "--context", type=at_least(1), metavar="BASES", help="window around a variant (default: as in pretraining)"
    )
    for name, least, default, meaning in (
        ("radius", 0, 100, "bases on each side that count as nearby"),
        ("longest", 1, 50, "longest allele that is scored, in bases"),
        ("resamples", 1, 1000, "resamples of the bootstrap"),
        ("seed", 0, 0, "of bootstrap, folds and random weights"),
    ):
        verb.add_argument(
            f"--{name}", type=at_least(least), default=default, metavar="N", help=f"{meaning} (default: {default})"
        )
    verb.add_argument("--no-architecture", action="store_true", help="likelihoods only, in a quarter of the time")
    verb.add_argument("--no-random-weights", action="store_true", help="leave out the network with random weights")
    verb.set_defaults(run_verb=_benchmark)


def _benchmark(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.failures import BadInput

    from .benchmark import BenchmarkOptions, benchmark
    from .variant_suites import load_variant_suite

    suite = load_variant_suite(arguments.suite) if arguments.suite else None
    found = {name: getattr(arguments, name) for name in ("fasta", "vcf", "label")}
    if suite:
        if arguments.data is None:
            raise BadInput(f"--suite {arguments.suite}: --data is missing: the folder with {suite.vcf}. {suite.about}")
        found["label"] = found["label"] or suite.label
        for name in ("vcf", "fasta"):
            if found[name] is None and (file := getattr(suite, name)):
                found[name] = str(Path(arguments.data) / file)
    for name, value in found.items():
        if value is None:
            raise BadInput(f"--{name} is missing" + ("" if suite else "; or name a --suite"))
    options = BenchmarkOptions(
        Path(found["fasta"]), Path(found["vcf"]), found["label"],
        only=tuple(arguments.only or (suite.only if suite else ())),
        by=arguments.by or (suite.by if suite else None),
        against=tuple(arguments.against or (suite.against if suite else ())),
        corpus=arguments.corpus, context=arguments.context, radius=arguments.radius, longest=arguments.longest,
        architecture=not arguments.no_architecture, random_weights=not arguments.no_random_weights,
        resamples=arguments.resamples, seed=arguments.seed,
        title=suite.title if suite else None, about=suite.about if suite else None,
    )  # fmt: skip
    output = Path(arguments.output)
    print(benchmark(Path(arguments.model), output, options).read_text("utf-8"))
    print(f"wrote {output}")
    return 0


def _score_variants(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .score_vcf import VariantOptions, score_vcf

    options = VariantOptions(arguments.context, arguments.radius, arguments.longest, not arguments.no_shifts)
    output = Path(arguments.output)
    counts = score_vcf(Path(arguments.model), Path(arguments.fasta), Path(arguments.vcf), output, options)
    print(f"{', '.join(f'{status} {count:,}' for status, count in sorted(counts.items()))}; wrote {output}")
    return 0

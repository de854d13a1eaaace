"""The verb `annotate`: its arguments. The modules that do the work are imported when it runs."""

import argparse
from typing import Any

from dnachunker.downstream.arguments import GENOME_HELP

_RAW = argparse.RawDescriptionHelpFormatter
_METHODS = ("full", "probe", "random-full", "cnn", "markov", "kmer")
_REGION = "CONTIG[:START-END]|BED"


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    annotate = verbs.add_parser(
        "annotate", formatter_class=_RAW, help="learn a class or a number for every base, and test it once",
        description="Train an exported model to give every base of a genome a class, such as CDS, UTR, intron or\n"
        "intergenic, and train baselines to compare it with. Regions of --validation decide when training stops;\n"
        "those of --test are scored once. Where features overlap, a base has the first class of the config's list.\n"
        "With --track in place of --annotation, it learns the number that a bigWig gives every base.\n\n"
        "methods: full (all weights), probe (frozen, linear head), random-full (the same network without its\n"
        "pretraining), cnn (convolutions, equal size), markov (hidden Markov model with Markov chains of order 5;\n"
        "for --annotation), kmer (mean over training bases with the same letter and neighbours; for --track)",
        epilog="examples:\n"
        "  dnachunker annotate --model exported/first --fasta sacCer3.fa.gz --annotation yeast.gtf.gz \\\n"
        "      --validation chrVI --test chrIX --output results/genes ignore=[UTR]\n"
        "  dnachunker annotate --model exported/first --fasta genome.fa --annotation genes.gff3 --validation chr8 \\\n"
        "      --test chr9 --output results/compare --method full --method cnn --method markov \\\n"
        "      window=4096 steps=2000 class_weight_exponent=0.5 seeds=3\n"
        "  dnachunker annotate --model exported/first --fasta genome.fa --track coverage.bw log_values=true \\\n"
        "      --validation chr8 --test chr9 --output results/coverage --method full --method kmer\n\n"
        "OUT/table.md, .csv, figure.svg and metrics.json hold the scores of each class, of bases and of segments.\n"
        "OUT/METHOD/seed-N/ holds predicted.bed (predicted.bw) for genome browsers and, but for cnn, markov\n"
        "and kmer, the model, which AutoModelForTokenClassification loads. The same command again keeps finished\n"
        "results.",
    )  # fmt: skip
    annotate.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    annotate.add_argument("--fasta", required=True, metavar="FILE", help=GENOME_HELP)
    learned = annotate.add_mutually_exclusive_group(required=True)
    learned.add_argument(
        "--annotation", action="append", default=[], metavar="FILE",
        help="features of the genome: GFF3, GTF, or BED with the kind in column 4; may be repeated",
    )  # fmt: skip
    learned.add_argument("--track", metavar="FILE", help="bigWig with a number for each base, such as coverage")
    annotate.add_argument(
        "--train", action="append", default=[], metavar=_REGION,
        help="region to train on, 1-based, both ends included; may be repeated (default: all that is not held out)",
    )  # fmt: skip
    annotate.add_argument(
        "--validation",
        action="append",
        required=True,
        metavar=_REGION,
        help="region that stops training; may be repeated",
    )
    annotate.add_argument(
        "--test", action="append", required=True, metavar=_REGION, help="region to score once; may be repeated"
    )
    annotate.add_argument("--output", required=True, metavar="DIR", help="folder to create or continue")
    annotate.add_argument(
        "--method", action="append", choices=_METHODS, help="method to train; may be repeated (default: full)"
    )
    annotate.add_argument(
        "--config", default="annotate", metavar="FILE|PRESET", help="YAML file, or a preset (default: %(default)s)"
    )
    annotate.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    annotate.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override config keys, such as steps=500 strands=true"
    )
    annotate.set_defaults(run_verb=_annotate)


def _annotate(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.typed_config import explained_yaml, load_config

    from .config import AnnotateConfig

    config = load_config(AnnotateConfig, arguments.config, arguments.overrides, kind="downstream")
    if arguments.print_config:
        print(explained_yaml(config), end="")
        return 0

    from .annotate import Inputs, annotate

    inputs = Inputs(
        Path(arguments.model), Path(arguments.fasta), tuple(map(Path, arguments.annotation)),
        tuple(arguments.train), tuple(arguments.validation), tuple(arguments.test),
        Path(arguments.track) if arguments.track else None,
    )  # fmt: skip
    output = Path(arguments.output)
    table = annotate(inputs, tuple(dict.fromkeys(arguments.method or ["full"])), output, config)
    print(table.read_text("utf-8"))
    print(f"wrote {output}")
    return 0

"""The verb `study`: its arguments. The modules that do the work are imported when it runs."""

import argparse
from typing import Any

from dnachunker.downstream.arguments import GENOME_HELP, add_features_argument, at_least

_RAW = argparse.RawDescriptionHelpFormatter


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    study = verbs.add_parser(
        "study", formatter_class=_RAW, help="questions about a segmentation, with tables and figures",
        description="Tables and figures about how a model cuts a sequence, compared with k-mers and BPE:\n"
        "  lengths     bases per token in each class of annotation, and in soft-masked repeats\n"
        "  enrichment  token starts around the borders of features, with permutation p-values\n"
        "  motifs      tokens per motif occurrence\n"
        "  stability   Jaccard index of token starts under SNVs, indels (also as in patients) and shifts\n"
        "  species     agreement between genomes on where the same k-mers are cut\n"
        "  track       whether token starts and losses follow a bigWig, such as conservation, beyond GC content",
        epilog="examples:\n"
        "  dnachunker study lengths --model exported/first --fasta hg38.fa --region chr2 --output out/lengths \\\n"
        "      --annotation genes.gtf --annotation rmsk.out\n"
        "  dnachunker study motifs --model exported/first --fasta yeast.fa --motifs jaspar.txt --output out/motifs\n"
        "  dnachunker study stability --model exported/first --fasta yeast.fa --bpe-corpus train.fa --output out/st\n"
        "  dnachunker study species --model exported/first --fasta human_mt.fa --other mouse_mt.fa --output out/sp",
    )  # fmt: skip
    study.add_argument(
        "kind", choices=("lengths", "enrichment", "motifs", "stability", "species", "track"), help="study to run"
    )
    study.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    study.add_argument("--fasta", required=True, metavar="FILE", help=GENOME_HELP)
    study.add_argument(
        "--region", action="append", default=[], metavar="CONTIG[:START-END]|BED",
        help="region to study, 1-based, both ends included; may be repeated (default: the whole genome)",
    )  # fmt: skip
    study.add_argument("--output", required=True, metavar="DIR", help="folder to create")
    study.add_argument(
        "--annotation", action="append", default=[], metavar="FILE", help="BED, GTF, GFF or .out; may be repeated"
    )
    add_features_argument(study)
    study.add_argument("--motifs", metavar="FILE", help="motifs in JASPAR's or MEME's format")
    study.add_argument("--other", action="append", default=[], metavar="FASTA", help="another genome; may be repeated")
    study.add_argument("--track", metavar="FILE", help="bigWig with a number for each base, such as phyloP")
    study.add_argument("--bpe-corpus", metavar="FASTA", help="sequence that BPE is trained on (default: --fasta)")
    study.add_argument(
        "--bpe-vocabulary", type=at_least(1), default=4096, metavar="N", help="tokens of BPE (default: 4096)"
    )
    study.add_argument(
        "--kmer", type=at_least(1), default=6, metavar="K", help="k of the k-mer tokens (default: %(default)s)"
    )
    study.add_argument(
        "--window", type=at_least(1), metavar="BASES", help="bases read at a time (default: as in pretraining)"
    )
    study.add_argument(
        "--permutations", type=at_least(1), default=999, metavar="N", help="number for p-values (default: %(default)s)"
    )
    study.add_argument(
        "--samples", type=at_least(1), default=100, metavar="N", help="windows of stability (default: %(default)s)"
    )
    study.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="random seed (default: 0)")
    study.set_defaults(run_verb=_study)


def _study(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .study import StudyOptions, study

    options = StudyOptions(
        regions=tuple(arguments.region), annotations=tuple(map(Path, arguments.annotation)),
        features=tuple(arguments.features),
        motifs=Path(arguments.motifs) if arguments.motifs else None, others=tuple(map(Path, arguments.other)),
        track=Path(arguments.track) if arguments.track else None,
        bpe_corpus=Path(arguments.bpe_corpus) if arguments.bpe_corpus else None, kmer=arguments.kmer,
        bpe_vocabulary=arguments.bpe_vocabulary, window=arguments.window, permutations=arguments.permutations,
        windows=arguments.samples, seed=arguments.seed,
    )  # fmt: skip
    output = Path(arguments.output)
    print(study(arguments.kind, Path(arguments.model), Path(arguments.fasta), output, options).read_text("utf-8"))
    print(f"wrote {output}")
    return 0

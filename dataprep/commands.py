"""The verbs `genomes`, `shard` and `corpus`; importing this module is cheap: a verb imports what it needs."""

import argparse
from typing import TYPE_CHECKING, Any

from dnachunker.foundations.presets import describe_presets
from dnachunker.foundations.whole_numbers import whole_number

if TYPE_CHECKING:
    from dnachunker.dataprep.build.build import BuildSummary

GENOMES_HELP = "list genomes by name, and fetch them"
GENOMES_EXAMPLE = """\
example:
  dnachunker genomes list
  dnachunker genomes fetch sacCer3 GCF_000005845.2
  dnachunker genomes fetch --from list.tsv --lock genomes.lock
  dnachunker genomes list --from list.tsv --sources > corpus.yaml

A name is one that `list` shows, or any NCBI assembly accession. Files go to $DNACHUNKER_CACHE (default
~/.cache/dnachunker); a corpus config finds them there by `genome: NAME`. The columns of a list: docs/genomes.md.
"""
SHARD_HELP = "cut genomes (FASTA) into a corpus of shards"
SHARD_EXAMPLE = """\
example:
  dnachunker shard --config sample --output corpora/sample
  dnachunker shard --config hg38 --output corpora/hg38 sources.hg38.path=/data/hg38.fa.gz split.path=/data/splits.bed

After a kill, run the same command again: the build continues from its finished shards. A finished corpus is not built
again.
"""
CORPUS_HELP = "show what is in a corpus, or check every byte of it"
CORPUS_EXAMPLE = """\
example:
  dnachunker corpus info corpora/sample
  dnachunker corpus verify corpora/sample
  dnachunker corpus verify corpora/yeast --fasta sacCer3.fa
  dnachunker corpus show corpora/sample NC_017366.1:1001-1200
"""


def add_verbs(verbs: Any) -> None:
    """Add this package's verbs to the `dnachunker` command."""
    for name, says, add_arguments, run in (
        ("genomes", GENOMES_HELP, add_genomes_arguments, run_genomes),
        ("shard", SHARD_HELP, add_shard_arguments, run_shard),
        ("corpus", CORPUS_HELP, add_corpus_arguments, run_corpus),
    ):
        verb = verbs.add_parser(name, help=says)
        add_arguments(verb)
        verb.set_defaults(run_verb=run)


def add_genomes_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dnachunker genomes list|fetch`."""
    parser.description = "List genomes by name and download them. Downloads resume, are verified and pinned by sha256."
    parser.epilog = GENOMES_EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="genomes_verb", required=True, metavar="list|fetch")
    listing = verbs.add_parser("list", help="print the catalog, or a list of your own")
    listing.add_argument("--from", dest="listed", metavar="FILE", help="tab-separated list instead of the catalog")
    listing.add_argument("--sources", action="store_true", help="print the genomes as `sources` of a corpus config")
    fetch = verbs.add_parser("fetch", help="download into the cache")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="a name in the catalog or list, or an NCBI accession")
    fetch.add_argument("--from", dest="listed", metavar="FILE", help="tab-separated list; without NAME, fetch it all")
    fetch.add_argument(
        "--lock", metavar="FILE", help="file that pins sha256 sums (default: genomes.lock in the cache folder)"
    )


def run_genomes(args: argparse.Namespace) -> int:
    """Run one of the `genomes` verbs; returns the exit code."""
    from dnachunker.dataprep.downloads import show_genomes

    if args.genomes_verb == "list":
        print(show_genomes.sources_yaml(args.listed) if args.sources else show_genomes.table(args.listed))
        return 0
    for line in show_genomes.fetch_all(args.names, args.listed, args.lock):
        print(line, flush=True)
    return 0


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dnachunker shard`."""
    parser.description = "Cut genomes into a corpus: seekable .tar.zst shards with an index (docs/data_format.md)."
    parser.epilog = f"{SHARD_EXAMPLE}\n{describe_presets('corpus')}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", required=True, metavar="FILE|PRESET", help="YAML file, or a preset's name")
    parser.add_argument("--output", metavar="DIR", help="folder of the new corpus, or a URL such as s3://...")
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="tasks at a time (default: all cores; 0: one, in this process)"
    )
    parser.add_argument(
        "--ray",
        metavar="local|none|ADDRESS",
        default="local",
        help="local: Ray tasks on this machine (default); ADDRESS: Ray tasks on that cluster; none: threads of this "
        "process, which start some seconds sooner",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing corpus")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="config keys to change, such as block_bases=65536"
    )


def run_shard(args: argparse.Namespace) -> int:
    """Build a corpus and print a summary; returns the exit code."""
    from dnachunker.foundations.failures import BadInput
    from dnachunker.foundations.typed_config import explained_yaml, load_config

    from .config import CorpusConfig

    config = load_config(CorpusConfig, args.config, args.overrides, kind="corpus")
    if args.print_config:
        print(explained_yaml(config), end="")
        return 0
    if not args.output:
        raise BadInput("shard: --output DIR is missing: the folder of the new corpus")
    from dnachunker.dataprep.build.build import build_corpus

    in_process = (args.workers if args.workers is not None else config.workers) == 0
    ray = None if in_process or args.ray == "none" else args.ray
    summary = build_corpus(config, args.output, overwrite=args.overwrite, workers=args.workers, ray=ray)
    print(describe_build(summary))
    print(f"next: dnachunker pretrain --config tiny --corpus {args.output} --run runs/tiny")
    return 0


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dnachunker corpus info|verify|show`."""
    parser.description = "Show what is in a corpus, or check it. DIR is a folder or a URL (http, s3, gs)."
    parser.epilog = CORPUS_EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="corpus_verb", required=True, metavar="info|verify|show")
    info = verbs.add_parser("info", help="print totals and provenance")
    verify = verbs.add_parser("verify", help="check every checksum and decode every block; exit code 2 if any is bad")
    verify.add_argument(
        "--fasta",
        action="append",
        default=[],
        metavar="[SOURCE=]FILE",
        help="also compare every base with the genome file of the source, FASTA or .2bit; may be repeated",
    )
    show = verbs.add_parser("show", help="print the bases of a region")
    for verb in (info, verify, show):
        verb.add_argument("corpus", metavar="DIR", help="corpus folder or URL")
    show.add_argument(
        "region",
        metavar="CONTIG[:START-END]",
        help="1-based, both ends included; write SOURCE/CONTIG where several sources have such a contig",
    )


def run_corpus(args: argparse.Namespace) -> int:
    """Run one of the `corpus` verbs; returns the exit code."""
    from dnachunker.dataprep.corpus.index import Corpus

    corpus = Corpus.open(args.corpus)
    if args.corpus_verb == "info":
        from dnachunker.dataprep.corpus.describe import describe_corpus

        print(describe_corpus(corpus))
    elif args.corpus_verb == "show":
        from dnachunker.dataprep.corpus.describe import show_region

        print(show_region(corpus, args.region))
    else:
        from dnachunker.dataprep.corpus.verify import verify_corpus
        from dnachunker.foundations.failures import BadInput

        faults = verify_corpus(corpus)
        if args.fasta and not faults:
            from dnachunker.dataprep.corpus.compare_fasta import compare_with_fasta

            faults = compare_with_fasta(corpus, args.fasta)
        if faults:
            raise BadInput(f"{faults[0]} ({len(faults)} faults in all)" if len(faults) > 1 else faults[0])
        blocks = sum(totals.blocks for totals in corpus.index.splits.values())
        print(
            f"{args.corpus}: no faults; {blocks:,} blocks in {len(corpus.index.shards)} shards verified"
            + (f"; every base equals {', '.join(args.fasta)}" if args.fasta else "")
        )
    return 0


def describe_build(summary: "BuildSummary") -> str:
    """The table printed after a build."""
    from dnachunker.dataprep.corpus.describe import describe_corpus

    if summary.reused:
        first = f"{summary.corpus.path}: already built from this config and these inputs; nothing to do"
    else:
        first = f"built {summary.corpus.path} in {summary.seconds:.1f} s ({summary.bases_per_second / 1e6:,.1f} Mbp/s)"
        if summary.resumed_shards:
            first += f"; {summary.resumed_shards} shards were already finished by an interrupted build"
    return f"{first}\n{describe_corpus(summary.corpus)}"


def _count(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of tasks") from error

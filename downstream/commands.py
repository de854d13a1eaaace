"""The verbs that use an exported model: arguments here, work in the modules they import when run."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from .generate_verb import add_generate

# Runs ranks of a module with arguments on this machine and returns their exit code.
StartRanks = Callable[[list[str], int], int]

_RAW = argparse.RawDescriptionHelpFormatter
_METHODS = ("full", "lora", "probe", "kmer", "random-full", "random-probe")


def add_verbs(verbs: Any, *, start_ranks: StartRanks) -> None:
    """Add this package's verbs to the `dnachunker` command.

    Args:
        start_ranks: how `finetune --processes N` starts its ranks; given by the front door.
    """
    tasks = verbs.add_parser(
        "tasks", formatter_class=_RAW, help="list benchmark suites, and fetch their tasks",
        description="Benchmark suites by name: nt and nt-revised from the Hugging Face hub; genomic-benchmarks cut\n"
        "anew from its published coordinates and reference genomes that you have.",
        epilog="examples:\n"
        "  dnachunker tasks list\n"
        "  dnachunker tasks fetch nt --output data/nt\n"
        "  dnachunker tasks fetch genomic-benchmarks --output data/gb --task human_nontata_promoters \\\n"
        "      --genome Homo_sapiens.GRCh38=hg38.fa.gz",
    )  # fmt: skip
    inner = tasks.add_subparsers(dest="tasks_verb", required=True, metavar="list|fetch")
    inner.add_parser("list", help="suites and their tasks")
    fetch = inner.add_parser("fetch", help="make a folder of task folders")
    fetch.add_argument("suite", help="nt, nt-revised or genomic-benchmarks")
    fetch.add_argument("--output", required=True, metavar="DIR", help="folder to create or complete")
    fetch.add_argument("--task", action="append", default=[], metavar="NAME", help="may be repeated (default: all)")
    fetch.add_argument(
        "--genome", action="append", default=[], metavar="NAME=FASTA",
        help="reference by the beginning of its file name, such as Homo_sapiens.GRCh38=hg38.fa.gz; may be repeated",
    )  # fmt: skip
    fetch.add_argument("--source", metavar="URL|DIR", help="where coordinates are (default: the suite's repository)")
    fetch.add_argument("--endpoint", metavar="URL", help="of the Hugging Face hub (default: HF_ENDPOINT or the public)")
    tasks.set_defaults(run_verb=_tasks)

    finetune = verbs.add_parser(
        "finetune", formatter_class=_RAW, help="train an exported model to classify sequences, and test it once",
        description="Fine-tune an exported model on classification tasks, beside what it has to beat. A task is a\n"
        "folder with train, perhaps dev, and test files: CSV or TSV with the columns sequence and label, FASTA whose\n"
        "headers end in |LABEL, or parquet; plain or .gz. Training stops by the dev file, or by a tenth of train.\n"
        "The test file is read once, after training.\n\n"
        "methods: full (all weights), lora, probe (frozen, linear head), kmer (logistic regression on 6-mers),\n"
        "random-full and random-probe (the same network without its pretraining)",
        epilog="examples:\n"
        "  dnachunker finetune --model exported/first --task tasks/gue_mouse_2 --output runs/mouse\n"
        "  dnachunker finetune --model exported/first --task A --task B --output runs/compare \\\n"
        "      --method full --method probe --method kmer --method random-full learning_rate=1e-3 epochs=3\n\n"
        "OUT/table.md, .csv and .html hold every score with its interval; OUT/TASK/METHOD/ the predictions and the\n"
        "classifier, which AutoModelForSequenceClassification loads. Running the command again keeps what is done.",
    )  # fmt: skip
    finetune.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    finetune.add_argument("--task", action="append", required=True, metavar="DIR", help="task folder; may be repeated")
    finetune.add_argument("--output", required=True, metavar="DIR", help="folder to create or continue")
    finetune.add_argument(
        "--method", action="append", choices=_METHODS, help="may be repeated (default: full)"
    )  # fmt: skip
    finetune.add_argument("--processes", type=int, default=1, metavar="N", help="train on N ranks of this machine")
    _add_config(finetune, "finetune", "learning_rate=1e-3 rc_average=false")
    finetune.set_defaults(run_verb=_finetune, start_ranks=start_ranks)

    evaluate = verbs.add_parser(
        "evaluate", formatter_class=_RAW, help="score an exported model on a benchmark suite: select, then test once",
        description="Evaluate an exported model by a protocol: cross-validation on training data chooses among the\n"
        "settings of a grid; the chosen one is trained with several seeds, and only these see the test data.\n"
        "Every training is a cell with a file of its own, so a killed evaluation continues where it stopped.\n\n"
        "suites: nt, nt-revised, genomic-benchmarks (fetched by `dnachunker tasks fetch`), or a folder of task folders",
        epilog="examples:\n"
        "  dnachunker evaluate --model exported/first --suite tasks --output runs/quick --config quick\n"
        "  dnachunker evaluate --model exported/paper --suite nt --data data/nt --output runs/nt --ray local\n"
        "  dnachunker evaluate --model exported/first --suite tasks --output runs/small --method probe \\\n"
        "      --method kmer folds=5 seeds=5 training.epochs=3\n\n"
        "presets: paper (10 folds, 20 settings, 10 seeds), quick. OUT/table.md, .csv and .html hold the scores beside\n"
        "published rows, marked as such; OUT/selection.csv every setting's folds; OUT/cells every seed's predictions.",
    )  # fmt: skip
    evaluate.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    evaluate.add_argument("--suite", required=True, metavar="NAME|DIR", help="a suite, or a folder of task folders")
    evaluate.add_argument("--data", metavar="DIR", help="where the tasks of a named suite are")
    evaluate.add_argument("--output", required=True, metavar="DIR", help="folder to create or continue")
    evaluate.add_argument("--method", action="append", choices=_METHODS, help="may be repeated (default: full)")
    evaluate.add_argument(
        "--ray", default="none", metavar="none|local|ADDRESS",
        help="cells one after the other in this process (none, the default), as Ray tasks here, or on a cluster",
    )  # fmt: skip
    evaluate.add_argument("--workers", type=int, default=2, metavar="N", help="cells at a time with --ray local")
    evaluate.add_argument(
        "--mlflow", metavar="URI|none",
        help="where results are tracked (default: MLFLOW_TRACKING_URI, else sqlite in OUT)",
    )  # fmt: skip
    _add_config(evaluate, "paper", "folds=5 training.epochs=3")
    evaluate.set_defaults(run_verb=_evaluate)

    segment = verbs.add_parser(
        "segment", formatter_class=_RAW, help="how a model cuts a genome: BED, bigWig, and a page to look at",
        description="Cut a genome, or regions of it, into the model's chunks. OUT/stage0.bed and stage1.bed hold the\n"
        "chunks and the chunks of chunks: every base of the regions in exactly one each. stage0.bw holds the boundary\n"
        "probability of every base, stage1.bw that of every place the second router was asked about. UCSC and IGV\n"
        "load all four.",
        epilog="examples:\n"
        "  dnachunker segment --model exported/first --fasta hg38.fa --region chr2:100,001-300,000 --output tracks\n"
        "  dnachunker segment --model exported/first --fasta genome.fa.gz --region peaks.bed --output tracks \\\n"
        "      --html --annotation genes.gtf --annotation rmsk.out\n\n"
        "Long sequence is read in windows that overlap by two flanks; each base is taken from the window in which it\n"
        "is farthest from an end. --html adds OUT/viewer.html: one page that zooms from the region to its letters.",
    )  # fmt: skip
    _add_genome(segment)
    segment.add_argument("--output", required=True, metavar="DIR", help="folder to create")
    segment.add_argument("--html", action="store_true", help="also write OUT/viewer.html; regions up to 2 Mb each")
    segment.add_argument(
        "--annotation", action="append", default=[], metavar="FILE",
        help="BED, GTF, GFF or RepeatMasker .out to show on the page; may be repeated",
    )  # fmt: skip
    segment.add_argument("--overwrite", action="store_true", help="replace an earlier segmentation in OUT")
    segment.set_defaults(run_verb=_segment)

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
    _add_genome(embed)
    embed.add_argument("--level", choices=("mean", "chunk", "base"), default="mean", help="default: %(default)s")
    embed.add_argument("--stage", type=int, default=1, help="whose chunks: 0 inner, 1 outer (default: %(default)s)")
    embed.add_argument("--output", required=True, metavar="OUT.parquet|OUT.zarr", help="to create")
    embed.set_defaults(run_verb=_embed)

    add_generate(verbs)

    study = verbs.add_parser(
        "study", formatter_class=_RAW, help="questions about a segmentation, with tables and figures",
        description="Tables and figures about how a model cuts, beside k-mers and BPE on the same sequence:\n"
        "  lengths     bases per token in each class of annotation, and in soft-masked repeats\n"
        "  enrichment  token starts around the borders of features, with permutation p-values\n"
        "  motifs      tokens per motif occurrence\n"
        "  stability   Jaccard index of token starts under SNVs, indels and shifts by one base\n"
        "  species     do genomes agree on where the same k-mers are cut",
        epilog="examples:\n"
        "  dnachunker study lengths --model exported/first --fasta hg38.fa --region chr2 --output out/lengths \\\n"
        "      --annotation genes.gtf --annotation rmsk.out\n"
        "  dnachunker study motifs --model exported/first --fasta yeast.fa --motifs jaspar.txt --output out/motifs\n"
        "  dnachunker study stability --model exported/first --fasta yeast.fa --bpe-corpus train.fa --output out/st\n"
        "  dnachunker study species --model exported/first --fasta human_mt.fa --other mouse_mt.fa --output out/sp",
    )  # fmt: skip
    study.add_argument("kind", choices=("lengths", "enrichment", "motifs", "stability", "species"))
    study.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    study.add_argument("--fasta", required=True, metavar="FILE", help="sequence under study, plain or gzipped")
    study.add_argument(
        "--region", action="append", default=[], metavar="CONTIG[:START-END]|BED",
        help="1-based, ends included; may be repeated (default: everything)",
    )  # fmt: skip
    study.add_argument("--output", required=True, metavar="DIR", help="folder to create")
    study.add_argument(
        "--annotation", action="append", default=[], metavar="FILE", help="BED, GTF, GFF, RepeatMasker .out"
    )
    study.add_argument("--motifs", metavar="FILE", help="count matrices in JASPAR's format")
    study.add_argument("--other", action="append", default=[], metavar="FASTA", help="another genome; may be repeated")
    study.add_argument("--bpe-corpus", metavar="FASTA", help="what BPE learns from (default: the sequence under study)")
    study.add_argument("--bpe-vocabulary", type=int, default=4096, metavar="N", help="default: %(default)s")
    study.add_argument("--kmer", type=int, default=6, metavar="K", help="k of the k-mer tokens (default: %(default)s)")
    study.add_argument("--window", type=int, metavar="BASES", help="the model reads at a time (default: as pretrained)")
    study.add_argument("--permutations", type=int, default=999, metavar="N", help="for p-values (default: %(default)s)")
    study.add_argument(
        "--samples", type=int, default=100, metavar="N", help="windows, stability (default: %(default)s)"
    )
    study.add_argument("--seed", type=int, default=0, metavar="N", help="of permutations and samples")
    study.set_defaults(run_verb=_study)


def _add_genome(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", required=True, metavar="DIR", help="folder of `dnachunker export`")
    verb.add_argument("--fasta", required=True, metavar="FILE", help="genome, plain or gzipped")
    verb.add_argument(
        "--region", action="append", default=[], metavar="CONTIG[:START-END]|BED",
        help="1-based, ends included; may be repeated (default: everything)",
    )  # fmt: skip
    verb.add_argument("--window", type=int, metavar="BASES", help="read at a time (default: as in pretraining)")
    verb.add_argument("--flank", type=int, metavar="BASES", help="context on each side (default: window / 8)")


def _add_config(verb: argparse.ArgumentParser, preset: str, example: str) -> None:
    verb.add_argument(
        "--config", default=preset, metavar="FILE|PRESET", help="YAML file, or a preset (default: %(default)s)"
    )
    verb.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"override config keys, such as {example}")


def _tasks(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.failures import BadInput

    if arguments.tasks_verb == "list":
        from .tasks import SUITES, load_suite

        for name in SUITES:
            suite = load_suite(name)
            print(f"{name}: {suite.title}; {suite.licence}; {suite.source}: {suite.repository}")
            for task, facts in suite.tasks.items():
                length = f"{facts.length:,} bases" if facts.length else "various lengths"
                print(f"  {task:34} {facts.classes} classes, {length}")
        return 0

    from .hub import fetch_suite

    genomes = {}
    for text in arguments.genome:
        name, equals, path = text.partition("=")
        if not equals:
            raise BadInput(f"--genome {text}: write NAME=FASTA, such as Homo_sapiens.GRCh38=hg38.fa.gz")
        genomes[name] = Path(path)
    for line in fetch_suite(
        arguments.suite, Path(arguments.output), tasks=arguments.task, genomes=genomes,
        source=arguments.source, endpoint=arguments.endpoint,
    ):  # fmt: skip
        print(line)
    return 0


def _finetune(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.typed_config import load_config, to_yaml

    from .training_config import TrainingConfig

    config = load_config(TrainingConfig, arguments.config, arguments.overrides, kind="downstream")
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0
    if arguments.processes > 1 and "WORLD_SIZE" not in os.environ:
        return int(arguments.start_ranks(["dnachunker", *sys.argv[1:]], arguments.processes))

    from .finetune import finetune

    tables = finetune(
        Path(arguments.model), [Path(task) for task in arguments.task],
        tuple(dict.fromkeys(arguments.method or ["full"])), Path(arguments.output), config,
    )  # fmt: skip
    if tables:
        print(tables[0].read_text("utf-8"))
        print(f"wrote {', '.join(map(str, tables))}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dnachunker.foundations.typed_config import load_config, to_yaml

    from .protocol import ProtocolConfig

    config = load_config(ProtocolConfig, arguments.config, arguments.overrides, kind="downstream")
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0

    from .evaluate import evaluate

    output = Path(arguments.output)
    local = f"sqlite:///{(output / 'mlflow.db').absolute()}"
    uri = arguments.mlflow or os.environ.get("MLFLOW_TRACKING_URI") or local
    tables = evaluate(
        Path(arguments.model), arguments.suite, Path(arguments.data) if arguments.data else None,
        tuple(dict.fromkeys(arguments.method or ["full"])), output, config,
        ray=None if arguments.ray == "none" else arguments.ray, workers=max(1, arguments.workers),
        mlflow=None if uri == "none" else uri,
    )  # fmt: skip
    print(tables[0].read_text("utf-8"))
    print(f"wrote {', '.join(map(str, tables))}")
    return 0


def _segment(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .segment import SegmentOptions, segment

    output = Path(arguments.output)
    options = SegmentOptions(
        tuple(arguments.region), arguments.window, arguments.flank, arguments.html,
        tuple(Path(path) for path in arguments.annotation), arguments.overwrite,
    )  # fmt: skip
    found = segment(Path(arguments.model), Path(arguments.fasta), output, options)
    lengths = ", ".join(f"stage {stage} {mean:.2f}" for stage, mean in enumerate(found["mean_chunk_bases"]))
    print(f"{found['bases']:,} bases; mean chunk length in bases: {lengths}; wrote {output}")
    return 0


def _score_variants(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .variants import VariantOptions, score_vcf

    options = VariantOptions(arguments.context, arguments.radius, arguments.longest)
    output = Path(arguments.output)
    counts = score_vcf(Path(arguments.model), Path(arguments.fasta), Path(arguments.vcf), output, options)
    print(f"{', '.join(f'{status} {count:,}' for status, count in sorted(counts.items()))}; wrote {output}")
    return 0


def _embed(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .embed import EmbedOptions, embed

    options = EmbedOptions(
        arguments.level, arguments.stage, tuple(arguments.region), arguments.window, arguments.flank
    )  # fmt: skip
    rows = embed(Path(arguments.model), Path(arguments.fasta), Path(arguments.output), options)
    print(f"{rows:,} vectors; wrote {arguments.output}")
    return 0


def _study(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from .science import StudyOptions, study

    options = StudyOptions(
        regions=tuple(arguments.region), annotations=tuple(map(Path, arguments.annotation)),
        motifs=Path(arguments.motifs) if arguments.motifs else None, others=tuple(map(Path, arguments.other)),
        bpe_corpus=Path(arguments.bpe_corpus) if arguments.bpe_corpus else None, kmer=arguments.kmer,
        bpe_vocabulary=arguments.bpe_vocabulary, window=arguments.window, permutations=arguments.permutations,
        windows=arguments.samples, seed=arguments.seed,
    )  # fmt: skip
    output = Path(arguments.output)
    print(study(arguments.kind, Path(arguments.model), Path(arguments.fasta), output, options).read_text("utf-8"))
    print(f"wrote {output}")
    return 0

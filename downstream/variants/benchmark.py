"""`dnachunker variants benchmark`: how well scores tell labelled variants apart, beside baselines."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.genomes.contig_names import agree_on_contigs
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.input_file import hash_file
from dnachunker.dataprep.similarity.kmer_sketch import KMER
from dnachunker.dataprep.similarity.overlap import shares_in_train
from dnachunker.downstream.exported import Exported, open_exported
from dnachunker.downstream.output_folder import OPTIONS, check_place
from dnachunker.downstream.windows import default_window
from dnachunker.foundations.atomic_files import new_folder, write_json
from dnachunker.foundations.failures import BadInput

from .alleles import Alleles
from .benchmark_page import Findings, write_findings
from .labelled_variants import Condition, Label, Row, describe_values, numbers_of, read_variants
from .ranking import Floats, Labels, auroc_difference, rank
from .reference import SCORED, Reference, check_assembly, look
from .regression import FOLDS, Folds, Groups, calibrate, combine, grouped_folds
from .score_columns import (
    ALL_COMBINED,
    COMBINED,
    LIKELIHOOD,
    RANDOM,
    Score,
    ScoredVariant,
    markov_scores,
    model_scores,
)

OVERALL = "all"
_NO_STRATUM = "no value"
_SPLIT = "train"  # of the corpus: Markov chains are counted on it, and k-mers looked up in it
_SOFT_MASKED = str.maketrans("acgtn", "NNNNN")


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to compare.

    Attributes:
        label, only: as `Label.parse` and `Condition.parse` read them.
        by: column of the strata.
        against: columns with other scores; high values count as positive.
        corpus: the model's; None for no Markov chains and no look for the variants in it.
        context, radius, longest: as in `score-variants`, bases.
        architecture, random_weights: whether to score with these too.
        resamples: of the bootstrap.
        seed: of bootstrap, folds and random weights.
    """

    fasta: Path
    vcf: Path
    label: str
    only: tuple[str, ...] = ()
    by: str | None = None
    against: tuple[str, ...] = ()
    corpus: str | None = None
    context: int | None = None
    radius: int = 100
    longest: int = 50
    architecture: bool = True
    random_weights: bool = True
    resamples: int = 1000
    seed: int = 0
    title: str | None = None
    about: str | None = None


@dataclass(frozen=True)
class _Labelled:
    """The variants that have a label and can be scored, sorted by position."""

    rows: list[Row]
    variants: list[ScoredVariant]
    labels: Labels
    sites: Groups  # number of each variant's position
    places: Groups  # variants that are near one another have the same number
    spans: list[tuple[str, int, int]]  # contig of the genome, start and end of the alleles
    left_out: Mapping[str, int]


def benchmark(model: Path, output: Path, options: BenchmarkOptions) -> Path:
    """Score labelled variants, rank them by each score, and write page.html, table.md, results.json and variants.tsv.

    Returns:
        The Markdown table.

    Raises:
        BadInput: a file cannot be used or names no such column; no variant of a class is left; `output` exists.
    """
    if output.exists():
        raise BadInput(f"{output}: already exists; choose another --output")
    check_place(output)
    label, only = Label.parse(options.label), [Condition.parse(text, "--only") for text in options.only]
    exported = open_exported(model)
    context = options.context or default_window(exported)
    if context < 4 * options.longest:
        raise BadInput(f"--context {context}: must be at least 4 times --longest {options.longest}")
    corpus = Corpus.open(options.corpus) if options.corpus else None
    columns = [label.positive.column, *(one.column for one in only), *options.against]
    columns = list(dict.fromkeys([*columns, *([options.by] if options.by else [])]))
    rows = read_variants(options.vcf, columns)
    for column in options.against:
        numbers_of(options.vcf, rows, column)  # before all that takes long
    chosen, left_out = _choose(rows, label, only, options.vcf)
    with Genome(options.fasta) as genome:
        data = _labelled(genome, chosen, left_out, options, context)
        for of, kind in ((True, "positive"), (False, "negative")):
            if not (data.labels == of).any():
                values = describe_values(rows, label.positive.column)
                found = f"no {kind} variant that can be scored; {label.positive.column} has {values}"
                raise BadInput(f"--label {label.text!r}: {found}")
        overlap = _overlap(genome, data.spans, corpus, context) if corpus else {}
        scores = _scores(exported, data, corpus, options, context)
    scores += [
        Score(column, "column of the file", np.array(numbers_of(options.vcf, data.rows, column)))
        for column in options.against
    ]
    findings = _findings(exported, data, scores, overlap, corpus, options, context)
    with new_folder(output) as partial:
        write_findings(partial, findings)
        write_json(partial / OPTIONS, findings.options)
    return output / "table.md"


def _choose(
    rows: Sequence[Row], label: Label, only: Sequence[Condition], path: Path
) -> tuple[list[tuple[Row, bool]], Counter[str]]:
    """Variants with their labels, and why how many others are left out."""
    chosen: list[tuple[Row, bool]] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        try:
            positive = label.of(row)
            fits = all(one.column in row.values and one.holds(row.values[one.column]) for one in only)
        except ValueError as error:
            raise BadInput(f"{path}: {row.where}: {error}") from error
        if positive is None:
            left_out["no label"] += 1
        elif not fits:
            left_out["other than --only"] += 1
        else:
            chosen.append((row, positive))
    return chosen, left_out


def _labelled(
    genome: Genome,
    chosen: Sequence[tuple[Row, bool]],
    left_out: Counter[str],
    options: BenchmarkOptions,
    context: int,
) -> _Labelled:
    """The chosen variants that fit the genome and can be scored."""
    names = agree_on_contigs(options.vcf, [row.fields[0] for row, _ in chosen], genome.lengths)
    reference = Reference(genome, names)
    check_assembly(options.vcf, (row.fields for row, _ in chosen), reference, options.longest)
    left_out = left_out.copy()
    kept: list[tuple[Row, bool, Alleles]] = []
    for row, positive in chosen:
        status, alleles = look(row.fields, row.fields[4], reference, options.longest, context)
        if status == SCORED and alleles is not None:
            kept.append((row, positive, alleles))
        else:
            left_out[status] += 1
    kept.sort(key=lambda one: (one[0].fields[0], one[2].start, one[2].end))
    if left_out:
        told = ", ".join(f"{reason} {count:,}" for reason, count in sorted(left_out.items()))
        print(f"{options.vcf}: left out: {told}", file=sys.stderr)
    spans = [(names[row.fields[0]], alleles.start, alleles.end) for row, _, alleles in kept]
    return _Labelled(
        [row for row, _, _ in kept],
        [(alleles, reference.fetcher(row.fields[0]), reference.lengths[row.fields[0]]) for row, _, alleles in kept],
        np.array([positive for _, positive, _ in kept], bool),
        _numbered(spans, 0),
        _numbered(spans, 2 * options.radius),
        spans,
        left_out,
    )


def _numbered(spans: Sequence[tuple[str, int, int]], reach: int) -> Groups:
    """(n,) numbers: a new one where a span starts more than `reach` bases after the start of the span before it."""
    numbers = [0]
    for before, span in pairwise(spans):
        numbers.append(numbers[-1] + (span[0] != before[0] or span[1] > before[1] + reach))
    return np.array(numbers[: len(spans)], np.int64)


def _overlap(
    genome: Genome, spans: Sequence[tuple[str, int, int]], corpus: Corpus, context: int
) -> Mapping[str, float]:
    """Share of the distinct k-mers around the variants that the training split holds, by place."""
    around = _around(genome, spans, context // 2)
    groups = {"over the variants": _around(genome, spans, KMER - 1), "in their windows": around}
    if not all(one.isupper() for one in around):
        groups["in their windows, outside soft-mask"] = [one.translate(_SOFT_MASKED) for one in around]
    return shares_in_train(corpus, groups, _SPLIT)


def _around(genome: Genome, spans: Sequence[tuple[str, int, int]], flank: int) -> list[str]:
    """The letters of spans and their flanks; spans are sorted by contig and start; each base once."""
    merged: list[tuple[str, int, int]] = []
    for contig, first, last in spans:
        start, end = max(0, first - flank), min(genome.lengths[contig], last + flank)
        if merged and merged[-1][0] == contig and start <= merged[-1][2]:
            start, end = merged[-1][1], max(end, merged.pop()[2])
        merged.append((contig, start, end))
    return [genome.fetch(*span) for span in merged]


def _scores(
    exported: Exported, data: _Labelled, corpus: Corpus | None, options: BenchmarkOptions, context: int
) -> list[Score]:
    folds = grouped_folds(data.labels, data.places, options.seed)
    scores: list[Score] = []
    for random_weights in (False, True)[: 1 + options.random_weights]:
        ours = model_scores(
            exported, data.variants, context=context, radius=options.radius, architecture=options.architecture,
            random_weights=random_weights, seed=options.seed,
        )  # fmt: skip
        scores += ours
        if options.architecture:
            scores += _combined(ours, data.labels, folds, RANDOM if random_weights else "")
    return scores + (markov_scores(corpus, _SPLIT, data.variants) if corpus else [])


def _combined(scores: Sequence[Score], labels: Labels, folds: Folds, prefix: str) -> list[Score]:
    """The architecture's scores combined, and these with the likelihood; no values where there are no folds."""
    suffix = ", random weights" if prefix else ""
    of_likelihood = [score for score in scores if score.name.startswith(prefix + LIKELIHOOD)]
    of_architecture = [score for score in scores if score not in of_likelihood]
    found = []
    for name, meaning, parts in (
        (COMBINED, "logistic regression on shifts, changes and entropies", of_architecture),
        (ALL_COMBINED, "the same with the likelihood scores", list(scores)),
    ):
        features = np.stack([score.values for score in parts], axis=1)
        values: Floats = combine(features, labels, folds) if folds else np.full(len(labels), np.nan)
        found.append(Score(prefix + name, meaning + suffix, values))
    return found


def _findings(
    exported: Exported,
    data: _Labelled,
    scores: list[Score],
    overlap: Mapping[str, float],
    corpus: Corpus | None,
    options: BenchmarkOptions,
    context: int,
) -> Findings:
    strata = {OVERALL: np.ones(len(data.rows), bool)}
    if options.by:
        of = np.array([row.values.get(options.by, _NO_STRATUM) for row in data.rows])
        strata |= {f"{options.by}={name}": of == name for name in np.unique(of)}
    rankings = {
        (score.name, name): rank(
            data.labels[chosen], score.ranked[chosen], resamples=options.resamples, seed=options.seed
        )
        for score in scores
        for name, chosen in strata.items()
    }
    likelihood = scores[0].ranked
    differences = {
        score.name: auroc_difference(
            data.labels, score.ranked, likelihood, resamples=options.resamples, seed=options.seed
        )
        for score in scores[1:]
    }
    calibrations = {score.name: calibrate(data.labels, score.ranked, data.sites, options.seed) for score in scores}
    described: dict[str, Any] = {
        "verb": "variants benchmark", "model": exported.fingerprint, "fasta": [options.fasta.name,
        hash_file(options.fasta)[0]], "vcf": [options.vcf.name, hash_file(options.vcf)[0]], "label": options.label,
        "only": list(options.only), "by": options.by, "against": list(options.against),
        "corpus": corpus.fingerprint if corpus else None, "context": context, "radius": options.radius,
        "longest": options.longest, "architecture": options.architecture, "random_weights": options.random_weights,
        "resamples": options.resamples, "seed": options.seed,
    }  # fmt: skip
    return Findings(
        options.title or f"Variants of {options.vcf.name}", data.rows, data.labels, scores, rankings, differences,
        calibrations, list(strata), overlap, described, _notes(data, overlap, options, context),
    )  # fmt: skip


def _notes(data: _Labelled, overlap: Mapping[str, float], options: BenchmarkOptions, context: int) -> list[str]:
    left = ", ".join(f"{reason} {count:,}" for reason, count in sorted(data.left_out.items()))
    notes = [
        f"Positive: {options.label}: {int(data.labels.sum()):,} of {len(data.labels):,} variants at "
        f"{len(np.unique(data.sites)):,} positions." + (f" Left out: {left}." if left else ""),
        "AUROC is 0.5 for a score without information; AUPRC is then the share of positives. Intervals are 95 % "
        f"percentile bootstraps over variants ({options.resamples:,} resamples, each class by itself). They do not "
        "account for variants at one position being alike, and are too narrow where a class has only a few.",
        f"The difference is the AUROC minus that of {LIKELIHOOD}, in the same resamples. "
        f"Windows of {context:,} bases; nearby is within {options.radius:,} bases of the alleles.",
    ]
    if options.architecture:
        notes.append(
            f"Combined scores are predictions under {FOLDS}-fold cross-validation. Variants less than "
            f"{2 * options.radius + 1:,} bases apart are in one fold, with all between them: "
            f"{len(np.unique(data.places)):,} groups; with too few groups there are no combined scores. They learn "
            "from the labels of the other folds, as no other row does. Their intervals leave out how the fit varies."
        )
    if options.corpus:
        shares = ", ".join(f"{share:.2%} {where}" for where, share in overlap.items())
        notes.append(
            f"Of the distinct {KMER}-mers, on either strand, the {_SPLIT} split of the corpus holds: {shares}. Repeats "
            "are shared by unrelated sequence too. Markov chains are counted on the same split."
        )
    else:
        notes.append("No --corpus was named: no Markov chains, and no check whether training saw these sequences.")
    notes.append(
        "Calibration: each score is turned into a probability of being positive by isotonic regression, fitted on the "
        "other folds. On the diagonal, of the variants with probability p a share p is positive."
    )
    return notes + ([options.about] if options.about else [])

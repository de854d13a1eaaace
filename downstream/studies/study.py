"""`dnachunker study`: questions about a learned segmentation, with tables and figures, beside other tokenizers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnachunker.dataprep.genomes.features import Feature
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.annotations import read_features
from dnachunker.downstream.exported import Exported, open_exported
from dnachunker.downstream.output_folder import OPTIONS, check_place
from dnachunker.downstream.regions import choose_regions
from dnachunker.downstream.windows import default_window
from dnachunker.foundations.atomic_files import new_folder, write_json
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.progress import Progress

from .base_losses import base_losses
from .chunk_lengths import length_table
from .cutters import Cuts, Cutter, KmerCutter, ModelCutter, cut_all, train_bpe
from .enrichment import enrichment_table
from .figures import bar_figure, profile_figure
from .motifs import fragmentation_table, read_motifs
from .species import consistency_table
from .stability import sample_windows, stability_table
from .tables import write_study
from .track import read_track, track_table

_SHOWN_MOTIFS = 20  # in a figure


@dataclass(frozen=True)
class StudyOptions:
    """Options of all studies, and of single ones.

    Attributes:
        regions: of the genome; empty for all of it.
        features: kinds of features to read from the annotations; empty for all.
        bpe_corpus: FASTA that BPE is trained on; None for the sequence under study. A fair comparison uses the
            training sequence of the model.
        window: bases the model reads at a time; None for the pretraining length.
        motif_p: share of random sequence that scores as high as an occurrence (motifs).
        radius: bases around borders (enrichment).
        windows, length: number of windows, and bases of a window (stability).
        context: k of the k-mers (species).
    """

    regions: tuple[str, ...] = ()
    annotations: tuple[Path, ...] = ()
    features: tuple[str, ...] = ()
    motifs: Path | None = None
    others: tuple[Path, ...] = ()
    track: Path | None = None
    bpe_corpus: Path | None = None
    kmer: int = 6
    bpe_vocabulary: int = 4096
    window: int | None = None
    permutations: int = 999
    seed: int = 0
    motif_p: float = 1e-4
    radius: int = 50
    windows: int = 100
    length: int = 512
    context: int = 6


def study(kind: str, model: Path, fasta: Path, output: Path, options: StudyOptions) -> Path:
    """Run one study and write OUT/table.csv, table.md, figure.svg and options.json; returns the Markdown table.

    Args:
        kind: `lengths`, `enrichment`, `motifs`, `stability`, `species` or `track`.

    Raises:
        BadInput: the model, genome, regions or annotations cannot be used; nothing to count; `output` exists.
    """
    if output.exists():
        raise BadInput(f"{output}: already exists; choose another --output")
    check_place(output)
    exported = open_exported(model)
    with Genome(fasta) as genome:
        regions = choose_regions(genome, options.regions)
        letters = [genome.fetch(region.contig, region.start, region.end) for region in regions]
        lengths = genome.lengths
    features = [
        feature
        for path in options.annotations
        for feature in read_features(path, lengths, regions, options.features, may_be_empty=False)
    ]
    cutters = _cutters(exported, letters, options)
    title, rows, figure, notes = _STUDIES[kind](_Subject(exported, fasta, regions, letters, cutters, features, options))
    if not rows:
        raise BadInput(f"{kind}: nothing to count in these regions; choose other regions, annotations or motifs")
    described = {"verb": "study", "kind": kind, "model": exported.fingerprint, "fasta": fasta.name, **asdict(options)}
    with new_folder(output) as partial:
        source = options.bpe_corpus or fasta
        notes = [*notes, f"BPE: {options.bpe_vocabulary:,} tokens at most, learned from {source.name}."]
        write_study(partial, title, rows, figure, notes)
        write_json(partial / OPTIONS, _plain(described))
    return output / "table.md"


_Study = tuple[str, list[dict[str, Any]], str, list[str]]  # title, rows, figure, notes


@dataclass(frozen=True)
class _Subject:
    """The subject of a study: sequences, cutters and annotated features."""

    exported: Exported
    fasta: Path
    regions: list[Region]
    letters: list[str]
    cutters: list[Cutter]
    features: list[Feature]
    options: StudyOptions


def _lengths(on: _Subject) -> _Study:
    o = on.options
    cuts = _cut(on.letters, on.cutters)
    rows = length_table(on.regions, on.letters, cuts, on.features, permutations=o.permutations, seed=o.seed)
    title = f"Token length by class in {on.fasta.name}"
    notes = [
        "Bases per token of a class: its bases over the tokens that start in it.",
        f"p: two-sided, {o.permutations:,} rotations of the cuts within their regions.",
    ]
    return title, rows, bar_figure(rows, "class", "ratio to elsewhere", title, line=1.0), notes


def _enrichment(on: _Subject) -> _Study:
    o = on.options
    if not on.features:
        raise BadInput("enrichment: --annotation is missing, or has no feature in these regions")
    cuts = _cut(on.letters, on.cutters)
    rows, profiles = enrichment_table(
        on.regions, cuts, on.features, radius=o.radius, permutations=o.permutations, seed=o.seed
    )  # fmt: skip
    title = f"Token starts around borders of features in {on.fasta.name}, over the average"
    notes = [f"Near: within {o.radius} bases. p: two-sided, {o.permutations:,} rotations within regions."]
    return title, rows, profile_figure(profiles, title), notes


def _motifs(on: _Subject) -> _Study:
    o = on.options
    if o.motifs is None:
        raise BadInput("motifs: --motifs is missing: a file in JASPAR's or MEME's format")
    motifs = read_motifs(o.motifs)
    rows = fragmentation_table(
        on.letters,
        _cut(on.letters, on.cutters),
        motifs,
        p=o.motif_p,
        permutations=o.permutations,
        seed=o.seed,
    )
    title = f"Tokens per motif occurrence in {on.fasta.name}"
    notes = [
        f"Occurrences: log-odds on either strand that {o.motif_p:g} of random sequence reaches.",
        f"Expected: after {o.permutations:,} rotations of the cuts; p is two-sided.",
    ]
    shown = list(dict.fromkeys(row["motif"] for row in sorted(rows, key=lambda row: row["p"])))[:_SHOWN_MOTIFS]
    if len(rows) > len(in_figure := [row for row in rows if row["motif"] in shown]):
        notes.append(f"The figure shows the {_SHOWN_MOTIFS} motifs with the smallest p.")
    return title, rows, bar_figure(in_figure, "motif", "ratio", title, line=1.0), notes


def _stability(on: _Subject) -> _Study:
    o = on.options
    windows = sample_windows(on.letters, o.length, o.windows, o.seed)
    rows = stability_table(windows, on.cutters, seed=o.seed) if windows else []
    title = f"Jaccard index of token starts before and after a change ({on.fasta.name})"
    notes = [
        f"Windows of {o.length} bases; the change is in the middle, or drops the first base (shift).",
        "Clinical indels have the lengths (1 to 20 bases) and contexts of those that cause inherited disease (HGMD: "
        "Ball et al. 2005; Montgomery et al. 2013).",
        "beyond: token starts farther than 32 bases from the change.",
    ]
    return title, rows, bar_figure(rows, "change", "Jaccard", title), notes


def _species(on: _Subject) -> _Study:
    o = on.options
    if not o.others:
        raise BadInput("species: --other is missing: FASTA files to compare with")
    if len({on.fasta.name, *(path.name for path in o.others)}) <= len(o.others):
        raise BadInput("species: two files have the same name; the table could not tell them apart")
    texts = {on.fasta.name: on.letters, **{path.name: _whole(path) for path in o.others}}
    cuts = {name: _cut(found, on.cutters) for name, found in texts.items()}
    rows = consistency_table(texts, cuts, k=o.context, seen=20)
    for row in rows:
        row["pair"] = f"{row['genome']} / {row['other']}"
    title = "Agreement of cutting propensities between genomes"
    notes = [
        f"Correlation over {o.context}-mers of how often a token starts in their middle; at least 20 occurrences each.",
        "ceiling: between two halves of the first genome.",
    ]
    figure = bar_figure(rows, "pair", "agreement", title)
    return title, [{key: value for key, value in row.items() if key != "pair"} for row in rows], figure, notes


def _track(on: _Subject) -> _Study:
    o = on.options
    if o.track is None:
        raise BadInput("track: --track is missing: a bigWig with a number for each base, such as conservation")
    track = read_track(o.track, on.regions)
    cuts = _cut(on.letters, on.cutters)
    measures = {name: [one[name].astype(np.float64) for one in cuts] for name in cuts[0]}
    if not len(on.exported.lead):  # a causal model predicts nothing at masks
        network, window = on.exported.network("masked"), o.window or default_window(on.exported)
        losses = [base_losses(on.exported, network, text, window, o.seed) for text in on.letters]
        measures["loss"] = [part.astype(np.float64) for part in losses]
    rows = track_table(on.letters, track, measures, permutations=o.permutations, seed=o.seed)
    title = f"Correlation with {o.track.name} in {on.fasta.name}"
    notes = [
        "Correlation of token starts (1 at a start, else 0) and of each base's loss with the track.",
        "Adjusted for GC: the track less its mean over bases with the same GC content in 101 bases around them.",
        f"p: two-sided, {o.permutations:,} rotations within regions.",
        "Where high: at token starts, or where the loss is above its median.",
    ]
    return title, rows, bar_figure(rows, "adjusted for", "correlation", title, line=0.0), notes


_STUDIES = {
    "lengths": _lengths,
    "enrichment": _enrichment,
    "motifs": _motifs,
    "stability": _stability,
    "species": _species,
    "track": _track,
}


def _whole(fasta: Path) -> list[str]:
    with Genome(fasta) as genome:
        return [genome.fetch(contig, 0, length) for contig, length in genome.lengths.items()]


def _cutters(exported: Exported, letters: Sequence[str], options: StudyOptions) -> list[Cutter]:
    window = options.window or default_window(exported)
    corpus = _whole(options.bpe_corpus) if options.bpe_corpus else letters
    model = ModelCutter(exported, exported.network("boundaries"), window, window // 8)
    return [model, KmerCutter(options.kmer), train_bpe(corpus, options.bpe_vocabulary)]


def _cut(letters: Sequence[str], cutters: Sequence[Cutter]) -> list[Cuts]:
    found = []
    with Progress("cutting", sum(map(len, letters)), "bp") as bar:
        for text in letters:
            found.append(cut_all(cutters, text))
            bar.update(len(text))
    return found


def _plain(value: Any) -> Any:
    """`value` in JSON's types; a path becomes its file name."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, Path) else value.item() if isinstance(value, np.generic) else value

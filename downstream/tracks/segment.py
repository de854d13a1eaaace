"""`dnachunker segment`: how a model cuts a genome, as tracks for genome browsers and as an HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region
from dnachunker.downstream.annotations import FeatureIndex, read_features
from dnachunker.downstream.exported import open_exported
from dnachunker.downstream.output_folder import OPTIONS, check_place
from dnachunker.downstream.regions import choose_regions
from dnachunker.downstream.windows import WindowOutput, chosen_window, of_region, run_windows, tile
from dnachunker.foundations.atomic_files import new_folder, write_json
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.progress import Progress

from .bed_bigwig import TrackWriter
from .viewer import LONGEST, ViewedRegion, write_viewer

SUMMARY = "summary.json"


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `segment`; `window` and `flank` as in `chosen_window`."""

    regions: tuple[str, ...] = ()
    window: int | Literal["whole"] | None = None
    flank: int | None = None
    html: bool = False
    annotations: tuple[Path, ...] = ()
    features: tuple[str, ...] = ()  # kinds of features to show; empty for all
    overwrite: bool = False


def segment(model: Path, fasta: Path, output: Path, options: SegmentOptions) -> dict[str, Any]:
    """Write tracks of every region, or of the whole genome, into the folder `output`.

    Returns:
        The summary that is also stored there: bases, and per stage chunks and their mean length in bases.

    Raises:
        BadInput: no such model, FASTA or region; `output` exists; a region is too long for the page; as
            `chosen_window`.
    """
    exported = open_exported(model)
    if output.exists() and not (options.overwrite and (output / SUMMARY).is_file()):
        raise BadInput(f"{output}: already exists; choose another --output, or --overwrite an earlier segmentation")
    check_place(output)
    if (options.annotations or options.features) and not options.html:
        raise BadInput("--annotation and --features are for the page, which only --html writes; add --html")
    with Genome(fasta) as genome:
        regions = choose_regions(genome, options.regions)
        window, flank = chosen_window(exported, genome, regions, options.window, options.flank)
        if options.html and (long := [r for r in regions if r.length > LONGEST]):
            raise BadInput(f"--html: {long[0]} is longer than {LONGEST:,} bases; choose parts of it with --region")
        features = [
            FeatureIndex(read_features(path, genome.lengths, regions, options.features)) for path in options.annotations
        ]
        network = exported.network("boundaries")
        with new_folder(output) as partial, TrackWriter(partial, genome, exported.config.stages) as tracks:
            viewed = []
            windows = (w for region in regions for w in tile(region, genome.lengths[region.contig], window, flank))
            found = run_windows(exported, network, genome, windows)
            with Progress("segment", sum(region.length for region in regions), "bp") as bar:
                for region in regions:
                    parts = []
                    for part in of_region(region, found, bar):
                        tracks.add(part)
                        if options.html:
                            parts.append(part)
                    tracks.end_region()
                    if options.html:
                        viewed.append(_viewed(region, parts, features))
            if options.html:
                names = [path.name for path in options.annotations]
                write_viewer(partial / "viewer.html", viewed, names, title=f"{fasta.name} cut by {model.name}")
            summary = {
                "bases": tracks.bases,
                "chunks": tracks.chunks,
                "mean_chunk_bases": [tracks.bases / count for count in tracks.chunks],
            }
            write_json(partial / SUMMARY, summary)
            write_json(partial / OPTIONS, {
                "verb": "segment", "model": exported.fingerprint, "fasta": fasta.name, "window": window, "flank": flank,
                "regions": [str(region) for region in regions],
            })  # fmt: skip
    return summary


def _viewed(region: Region, parts: Sequence[WindowOutput], features: Sequence[FeatureIndex]) -> ViewedRegion:
    stages = range(len(parts[0].boundaries))
    return ViewedRegion(
        region,
        "".join(part.letters for part in parts),
        tuple(np.concatenate([part.boundaries[stage] for part in parts]) for stage in stages),
        tuple(np.concatenate([part.probabilities[stage] for part in parts]) for stage in stages),
        tuple(tuple(track.overlapping(region)) for track in features),
    )

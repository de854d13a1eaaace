"""The regions that `--region` names."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dnachunker.dataprep.genomes.contig_names import match_contigs
from dnachunker.dataprep.genomes.features import located_features
from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.region import Region, parse_region
from dnachunker.foundations.failures import BadInput


class NamedRegion(NamedTuple):
    """A region, and its name: column 4 of BED, or a feature's name; else the contig, or `CONTIG:START-END`."""

    region: Region
    name: str


def listed_regions(genome: Genome, wanted: Sequence[str]) -> list[NamedRegion]:
    """Regions of a genome, each as it is listed and in that order.

    Args:
        wanted: `CONTIG`, `CONTIG:START-END` (1-based, both ends included, as genome browsers write it), or the path
            of a BED file (or another file of intervals); empty for every contig.

    Raises:
        BadInput: no such contig, or a region that is empty or ends beyond its contig.
    """
    found: list[NamedRegion] = []
    for text in wanted:
        if region := parse_region(text, genome.lengths):
            found.append(NamedRegion(region, region.contig if text == region.contig else str(region)))
        elif os.path.exists(text):  # Path.exists raises an error where the letters are too long for a file name
            found += _listed(Path(text), genome)
        else:
            raise BadInput(_unknown(text, genome))
    if not wanted:
        found = [NamedRegion(Region(contig, 0, length), contig) for contig, length in genome.lengths.items()]
    return found


def choose_regions(genome: Genome, wanted: Sequence[str]) -> list[Region]:
    """Regions as in `listed_regions`, but merged where they overlap or touch, in the order of the contigs.

    Raises:
        BadInput: as `listed_regions`.
    """
    found = [region for region, _ in listed_regions(genome, wanted)]
    order = {contig: number for number, contig in enumerate(genome.lengths)}
    merged: list[Region] = []
    for region in sorted(found, key=lambda r: (order[r.contig], r.start, r.end)):
        if merged and merged[-1].contig == region.contig and region.start <= merged[-1].end:
            merged[-1] = Region(region.contig, merged[-1].start, max(merged[-1].end, region.end))
        else:
            merged.append(region)
    return merged


def _listed(path: Path, genome: Genome) -> list[NamedRegion]:
    features = located_features(path, genome.lengths, skip_unknown=False, may_be_empty=False)
    regions = ((Region(feature.contig, feature.start, feature.end), feature.name) for feature in features)
    return [NamedRegion(region, str(region) if name in ("", ".") else name) for region, name in regions]  # . is no name


def _unknown(text: str, genome: Genome) -> str:
    contig = text.rpartition(":")[0] or text
    meant = match_contigs([contig], genome.lengths).get(contig)
    hint = f"did you mean {meant}?" if meant else f"contigs are {', '.join(list(genome.lengths)[:5])} ..."
    return f"region {text!r}: neither a contig of {genome.path.name} nor a BED file; {hint}"

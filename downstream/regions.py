"""The regions that `--region` names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.downstream.text_files import UNREADABLE, open_text
from dnachunker.foundations.failures import BadInput

_REGION = re.compile(r"(?P<contig>.+):(?P<start>[\d,]+)-(?P<end>[\d,]+)")


@dataclass(frozen=True, order=True)
class Region:
    """Bases [start, end) of a contig, 0-based; written as `chr1:1-100`, 1-based with both ends included."""

    contig: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.contig}:{self.start + 1}-{self.end}"

    @property
    def length(self) -> int:
        return self.end - self.start


def choose_regions(genome: Genome, wanted: Sequence[str]) -> list[Region]:
    """Regions of a genome, merged where they overlap or touch, in the order of the contigs.

    Args:
        wanted: `CONTIG`, `CONTIG:START-END` (1-based, both ends included, as genome browsers write it), or the path
            of a BED file; empty for every contig.

    Raises:
        BadInput: no such contig, or a region that is empty or ends beyond its contig.
    """
    found: list[Region] = []
    for text in wanted:
        if Path(text).is_file():
            found += _read_bed(Path(text), genome)
        else:
            found.append(parse_region(text, genome))
    if not wanted:
        found = [Region(contig, 0, length) for contig, length in genome.lengths.items() if length]
    order = {contig: number for number, contig in enumerate(genome.lengths)}
    merged: list[Region] = []
    for region in sorted(found, key=lambda r: (order[r.contig], r.start, r.end)):
        if merged and merged[-1].contig == region.contig and region.start <= merged[-1].end:
            merged[-1] = Region(region.contig, merged[-1].start, max(merged[-1].end, region.end))
        else:
            merged.append(region)
    return merged


def parse_region(text: str, genome: Genome) -> Region:
    """The region that a text such as `chr1` or `chr1:1,001-2,000` names."""
    if text in genome.lengths:
        return Region(text, 0, genome.lengths[text])
    found = _REGION.fullmatch(text)
    if not found or found["contig"] not in genome.lengths:
        known = ", ".join(list(genome.lengths)[:5])
        raise BadInput(
            f"region {text!r}: neither a contig of {genome.path.name} nor a BED file; contigs are {known} ..."
        )
    start, end = (int(found[part].replace(",", "")) for part in ("start", "end"))
    return _checked(Region(found["contig"], start - 1, end), genome, f"region {text!r}")


def _read_bed(path: Path, genome: Genome) -> list[Region]:
    found = []
    try:
        with open_text(path) as text:
            lines = text.read().splitlines()
    except UNREADABLE as error:
        raise BadInput(f"{path}: not readable: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        fields = line.split("\t")
        if len(fields) < 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            raise BadInput(f"{path}: line {number}: not BED: {line[:60]!r}")
        if fields[0] not in genome.lengths:
            raise BadInput(f"{path}: line {number}: {genome.path.name} has no contig {fields[0]!r}")
        found.append(_checked(Region(fields[0], int(fields[1]), int(fields[2])), genome, f"{path}: line {number}"))
    if not found:
        raise BadInput(f"{path}: holds no regions")
    return found


def _checked(region: Region, genome: Genome, where: str) -> Region:
    length = genome.lengths[region.contig]
    if not 0 <= region.start < region.end <= length:
        raise BadInput(f"{where}: {region} does not lie in {region.contig}, which has {length:,} bases")
    return region

"""Annotated intervals of a genome: reads the files that `--annotation` names, and finds what overlaps a region."""

import sys
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnachunker.dataprep.genomes.features import Feature, located_features
from dnachunker.dataprep.genomes.region import Region
from dnachunker.foundations.failures import BadInput

_UNNAMED = "interval"  # kind of a BED line without column 4
# records of RefSeq, Ensembl and SGD files that stand for a sequence itself
_SEQUENCES = frozenset(("chromosome", "scaffold", "supercontig", "contig"))
_WHOLE = frozenset(("region", "databank_entry"))  # likewise, where they cover their contig


def read_features(
    path: Path,
    lengths: Mapping[str, int],
    regions: Sequence[Region] = (),
    kinds: Collection[str] = (),
    *,
    may_be_empty: bool = True,
) -> list[Feature]:
    """The features of a file, or only those that overlap one of `regions`.

    Args:
        path: BED, GFF3, GTF or RepeatMasker's .out, plain or compressed. The kind of a feature is column 4 of BED,
            column 3 of GFF3 and GTF, the class/family of RepeatMasker.
        lengths: contig -> length in bases.
        regions: disjoint.
        kinds: kinds to read; empty for all but records that stand for a whole contig.
        may_be_empty: as in `located_features`.

    Raises:
        BadInput: the file has another format, a malformed line, no contig of the genome, or no feature of `kinds`.
    """
    wanted = _RegionIndex(regions)
    left_out = False
    found: list[Feature] = []
    others: set[str] = set()
    any_of_kinds = False
    for feature in located_features(path, lengths, may_be_empty=may_be_empty):
        kind = feature.kind or _UNNAMED
        if kinds and kind not in kinds:
            others.add(kind)
            continue
        if not kinds and (
            kind in _SEQUENCES or (kind in _WHOLE and feature.end - feature.start == lengths[feature.contig])
        ):
            left_out = True
            continue
        any_of_kinds = True
        if not regions or wanted.overlap(feature):
            found.append(feature if feature.kind else feature._replace(kind=kind, name=kind))
    if others and not any_of_kinds:
        shown = ", ".join(sorted(others)[:12])
        raise BadInput(f"{path}: no feature of kind {' or '.join(kinds)}; the kinds are {shown}")
    if left_out and not any_of_kinds:
        print(f"{path}: all its records stand for whole contigs; --features KIND reads them", file=sys.stderr)
    return found


class FeatureIndex:
    """Features by place: finds those that overlap a region by bisection."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.kinds = sorted({feature.kind for feature in features})
        by_contig: dict[str, list[Feature]] = {}
        for feature in features:
            by_contig.setdefault(feature.contig, []).append(feature)
        self._contigs: dict[str, tuple[list[Feature], NDArray[np.int64], NDArray[np.int64]]] = {}
        for contig, found in by_contig.items():
            found.sort(key=lambda feature: feature.start)
            starts, ends = (np.array(values, np.int64) for values in zip(*(f[1:3] for f in found), strict=True))
            self._contigs[contig] = found, starts, np.maximum.accumulate(ends)

    def overlapping(self, region: Region) -> list[Feature]:
        """The features that share a base with the region, by start."""
        if region.contig not in self._contigs:
            return []
        found, starts, reach = self._contigs[region.contig]
        first, last = np.searchsorted(reach, region.start, "right"), np.searchsorted(starts, region.end)
        return [feature for feature in found[first:last] if feature.end > region.start]


class _RegionIndex:
    """Disjoint regions by place."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._ends: dict[str, list[int]] = {}
        self._starts: dict[str, list[int]] = {}
        for region in sorted(regions):
            self._starts.setdefault(region.contig, []).append(region.start)
            self._ends.setdefault(region.contig, []).append(region.end)

    def overlap(self, feature: Feature) -> bool:
        """Whether the feature shares a base with a region."""
        ends = self._ends.get(feature.contig, [])
        place = bisect_right(ends, feature.start)
        return place < len(ends) and self._starts[feature.contig][place] < feature.end

"""Regions as users write them: `CONTIG:START-END`, counted from 1, both ends included, as in samtools."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dnachunker.foundations.failures import BadInput

_REGION = re.compile(r"(?P<contig>.+):(?P<start>[0-9][0-9,]{0,25})-(?P<end>[0-9][0-9,]{0,25})")


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

    def check(self, length: int, where: str) -> None:
        """Refuse a region that is empty or not within its contig, which has `length` bases.

        Raises:
            BadInput: the message begins with `where`.
        """
        if not 0 <= self.start < self.end <= length:
            raise BadInput(
                f"{where}: {self} does not lie in {self.contig}, which has {length:,} bases; regions count from 1, "
                "both ends included"
            )


def parse_region(text: str, lengths: Mapping[str, int]) -> Region | None:
    """The region that a text such as `chr1` or `chr1:1,001-2,000` names; None if no contig of `lengths` is named.

    Raises:
        BadInput: the region is empty or ends beyond its contig, or `text` names a contig and a part of another too.
    """
    found = _REGION.fullmatch(text)
    if text in lengths:
        if found and found["contig"] in lengths:
            raise BadInput(f"region {text!r}: a contig, and a part of the contig {found['contig']} too; use a BED file")
        return Region(text, 0, lengths[text])
    if not found or found["contig"] not in lengths:
        return None
    start, end = (int(found[part].replace(",", "")) for part in ("start", "end"))
    region = Region(found["contig"], start - 1, end)
    region.check(lengths[region.contig], f"region {text!r}")
    return region

"""The alleles of a variant, the same however a VCF writes it: over all positions where the variant can be aligned.

In a repeat, the same indel can be written at several positions, and the conventions of the two strands choose different
ones. So alleles are widened to every position the indel can be shifted to, as SPDI does (doi:10.1093/bioinformatics/
btz856). Widened alleles are the same from both strands.
"""

from collections.abc import Callable
from dataclasses import dataclass

# Letters of [start, end) of the variant's contig, upper case.
Fetch = Callable[[int, int], str]


@dataclass(frozen=True)
class Alleles:
    """The contig has `reference` at [start, end), the other haplotype `alternative`; either may be empty."""

    start: int
    end: int
    reference: str
    alternative: str

    @property
    def longest(self) -> int:
        """Bases of the longer allele."""
        return max(len(self.reference), len(self.alternative))


def widen(start: int, reference: str, alternative: str, fetch: Fetch, length: int, limit: int) -> Alleles | None:
    """Trim the alleles of a VCF line, and widen those of a pure insertion or deletion.

    Args:
        start: 0-based position of the first letter of `reference`.
        length: of the contig.
        limit: most bases of an allele.

    Returns:
        None where an allele would be longer than `limit`.
    """
    while reference and alternative and reference[-1] == alternative[-1]:
        reference, alternative = reference[:-1], alternative[:-1]
    while reference and alternative and reference[0] == alternative[0]:
        reference, alternative, start = reference[1:], alternative[1:], start + 1
    end = start + len(reference)
    if max(len(reference), len(alternative)) > limit:
        return None
    unit = reference or alternative
    if not (reference and alternative):
        left, right = _shifts_left(start, unit, fetch, limit), _shifts_right(end, unit, fetch, length, limit)
        before, after = fetch(start - left, start), fetch(end, end + right)
        reference, alternative = before + reference + after, before + alternative + after
        start, end = start - left, end + right
    found = Alleles(start, end, reference, alternative)
    return None if found.longest > limit else found


def _shifts_right(end: int, unit: str, fetch: Fetch, length: int, limit: int) -> int:
    """Bases right of `end` that repeat `unit`, up to a little more than `limit`."""
    after = fetch(end, min(length, end + limit + 1))
    return next((i for i, letter in enumerate(after) if letter != unit[i % len(unit)]), len(after))


def _shifts_left(start: int, unit: str, fetch: Fetch, limit: int) -> int:
    before = fetch(max(0, start - limit - 1), start)[::-1]
    backwards = unit[::-1]
    return next((i for i, letter in enumerate(before) if letter != backwards[i % len(unit)]), len(before))

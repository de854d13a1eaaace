"""The genome that variants belong to: whether a variant fits it and can be scored, and the variant's alleles."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.foundations.failures import BadInput
from dnachunker.foundations.whole_numbers import whole_number
from dnachunker.model.alphabet import BASES, IUPAC_AMBIGUOUS

from .alleles import Alleles, Fetch, widen

SCORED = "scored"
_LOOKED_AT = 1000  # records compared with the genome before scoring
_AMBIGUOUS = str.maketrans(IUPAC_AMBIGUOUS, "N" * len(IUPAC_AMBIGUOUS))  # as the genome gives these letters


class Reference:
    """The genome, with contigs named as in the VCF.

    Attributes:
        lengths: contig -> length in bases; contigs that the genome lacks are left out.
    """

    def __init__(self, genome: Genome, names: Mapping[str, str]) -> None:
        self.path = genome.path
        self._genome, self._names = genome, names
        self.lengths = {name: genome.lengths[contig] for name, contig in names.items()}

    def fetcher(self, name: str) -> Fetch:
        return partial(self._upper, self._names[name])

    def _upper(self, contig: str, start: int, end: int) -> str:
        return self._genome.fetch(contig, start, end).upper()


def look(fields: Sequence[str], alt: str, genome: Reference, longest: int, context: int) -> tuple[str, Alleles | None]:
    """The status of one alternative allele, and its alleles if it can be scored.

    Args:
        fields: CHROM, POS, ID and REF, as in a VCF.
        longest: most bases of an allele that is scored; context: bases of a window.
    """
    contig, start, alternative = fields[0], whole_number(fields[1]) - 1, alt.upper()
    reference = fields[3].upper().translate(_AMBIGUOUS)
    if contig not in genome.lengths:
        return "unknown_contig", None
    length = genome.lengths[contig]
    if start < 0 or start + len(reference) > length:
        return "outside_contig", None
    fetch = genome.fetcher(contig)
    if fetch(start, start + len(reference)) != reference:
        return "reference_mismatch", None
    if not alternative or not set(alternative) <= set(BASES):
        return "no_sequence", None  # symbolic, breakend, spanning deletion, missing, N
    if not set(reference) <= set(BASES):
        return "reference_n", None
    if reference == alternative:
        return "no_change", None
    alleles = widen(start, reference, alternative, fetch, length, longest)
    if alleles is None:
        return "too_long", None
    filling = abs(len(alleles.reference) - len(alleles.alternative))
    if max(alleles.start, length - alleles.end) < filling:
        return "too_long", None  # the contig has too few bases to extend the shorter allele
    around = fetch(max(0, alleles.start - context // 2), min(length, alleles.end + context // 2))
    if around.count("N") * 2 > len(around):
        return "mostly_n", None
    return SCORED, alleles


def check_assembly(path: Path, lines: Iterable[Sequence[str]], genome: Reference, longest: int) -> None:
    """Refuse variants most of which contradict the genome; looks at the first thousand.

    Args:
        lines: CHROM, POS, ID, REF and ALT, as in a VCF.

    Raises:
        BadInput: contig or REF of most lines is not the genome's.
    """
    seen = wrong = 0
    for fields in islice(lines, _LOOKED_AT):
        status, _ = look(fields, fields[4].split(",")[0], genome, longest, 0)
        seen += 1
        wrong += status in ("unknown_contig", "outside_contig", "reference_mismatch")
    if wrong * 2 > seen:
        raise BadInput(
            f"{path}: {wrong} of the first {seen} lines contradict {genome.path.name} (contig or REF); "
            "is the VCF of another assembly?"
        )

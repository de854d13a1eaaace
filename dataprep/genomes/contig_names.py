"""Finds the contigs of one file in another that spells their names otherwise: `1` and `chr1`, `IV` and `4`, `MT`."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from dnachunker.foundations.failures import BadInput

_PREFIX = re.compile(r"(chromosome|chrom|chr)[ _]?(?=.)", re.IGNORECASE)
_MITOCHONDRION = ("m", "mt", "mito", "mtdna", "mitochondrion", "mitochondria")
_TENS = ("", "X", 2 * "X", 3 * "X", "XL")
_ONES = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
_ROMAN = {
    tens + ones: 10 * ten + one for ten, tens in enumerate(_TENS) for one, ones in enumerate(_ONES) if tens + ones
}
_SHOWN = 3


def contig_name(raw: bytes) -> str:
    """A contig's name as text; bytes that are not UTF-8 are spelled `\\xNN`.

    Raises:
        ValueError: a character of the name is a control character, which no table, track or page could hold.
    """
    name = raw.decode("utf-8", "backslashreplace")
    check_characters(name)
    return name


def check_characters(name: str) -> None:
    """Refuse a name that holds a control character, such as NUL or ESC.

    Raises:
        ValueError: it does.
    """
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise ValueError(f"the name {name[:60]!r} holds a control character; rename it")


def match_contigs(named: Iterable[str], genome: Collection[str]) -> dict[str, str]:
    """Name in a file -> the same contig's name in the genome; names without a contig are left out.

    An equal name comes first. Other names are matched without `chr`, with one spelling for the mitochondrion, and at
    last with roman numerals as numbers; each only where a single name of the file and a single contig remain for it.
    Numerals count as roman only where all numbers of that side are (so that chromosome X stays X).
    """
    named = dict.fromkeys(named)
    found = {name: name for name in named if name in genome}
    for spell in (_short, _numbered):
        taken = set(found.values())
        ours = {name: short for name, short in spell(named).items() if name not in found}
        theirs = {name: short for name, short in spell(genome).items() if name not in taken}
        places = {short: name for name, short in theirs.items()}
        counts = (Counter(ours.values()), Counter(theirs.values()))
        found |= {name: places[short] for name, short in ours.items() if all(count[short] == 1 for count in counts)}
    return found


def agree_on_contigs(path: Path, named: Iterable[str], genome: Collection[str]) -> Mapping[str, str]:
    """`match_contigs` for the names in the file at `path`; stderr tells which names were matched by another spelling.

    Raises:
        BadInput: the file names contigs, and none of them is in the genome.
    """
    named = list(dict.fromkeys(named))
    found = match_contigs(named, genome)
    if named and not found:
        raise BadInput(
            f"{path}: no contig of the genome: the file names {named[0]}, the genome has {next(iter(genome), 'none')}; "
            "is the file for another assembly?"
        )
    if respelled := [f"{name} is {contig}" for name, contig in found.items() if name != contig]:
        more = f" and {len(respelled) - _SHOWN} more" if len(respelled) > _SHOWN else ""
        shown = ", ".join(respelled[:_SHOWN])
        print(f"{path}: contigs are matched by another spelling: {shown}{more}", file=sys.stderr)
    return found


def _short(names: Iterable[str]) -> dict[str, str]:
    short = {name: _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name for name in names}
    return {name: "MT" if text.lower() in _MITOCHONDRION else text for name, text in short.items()}


def _numbered(names: Iterable[str]) -> dict[str, str]:
    short = _short(names)
    long = any(len(text) > 1 and text in _ROMAN for text in short.values())
    if not long or any(text.isdecimal() for text in short.values()):
        return short
    return {name: str(_ROMAN.get(text, text)) for name, text in short.items()}

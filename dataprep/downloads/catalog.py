"""Genomes by name: the catalog that ships with the package, the user's own lists, and NCBI assembly accessions.

The catalog `genomes.tsv` and a user's list have the same columns (docs/genomes.md). The catalog holds no checksum:
providers publish md5 sums beside their files, and a file without a published sum is pinned when it is first fetched.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urljoin

from dnachunker.dataprep.genomes.contig_names import check_characters
from dnachunker.dataprep.genomes.text_lines import text_lines
from dnachunker.dataprep.storage import is_url
from dnachunker.foundations.failures import BadInput

from .download import read_small

CATALOG = Path(__file__).parent / "genomes.tsv"
NCBI = "https://ftp.ncbi.nlm.nih.gov/genomes/all"
NCBI_LICENCE = (
    "NCBI places no restrictions on use or distribution; submitters may claim rights in their data "
    "(GenBank Data Usage, https://www.ncbi.nlm.nih.gov/genbank/)"
)

_ACCESSION = re.compile(r"(GC[AF])_(\d{3})(\d{3})(\d{3})\.(\d+)")
_MD5_LINE = re.compile(r"^([0-9a-fA-F]{32}) [ *]?(\S.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class GenomeEntry:
    """One row of a list: the sequence is at `url`, or NCBI has it under `accession`.

    `checksums` is the URL of a list of md5 sums, `intervals` that of a BED file with splits in column 4; "" if there
    is none.
    """

    name: str
    species: str = ""
    clade: str = ""
    assembly: str = ""
    accession: str = ""
    url: str = ""
    checksums: str = ""
    licence: str = ""
    citation: str = ""
    intervals: str = ""


_COLUMNS = tuple(field.name for field in fields(GenomeEntry))


def read_catalog() -> list[GenomeEntry]:
    """The genomes that ship with the package."""
    return read_list(CATALOG)


def read_list(path: Path) -> list[GenomeEntry]:
    """The rows of a tab-separated list with a header line; `#` lines and blank lines are skipped.

    Raises:
        BadInput: no such file, an unknown column, a row without url and accession, a column or name twice.
    """
    numbered = [(n, line) for n, line in enumerate(text_lines(path), 1) if line.strip() and line[0] != "#"]
    if not numbered:
        raise BadInput(f"{path}: no header line; columns are {', '.join(_COLUMNS)}")
    rows = (line.split("\t") for _, line in numbered)
    header = [name.strip().lower() for name in next(rows)]
    if unknown := [name for name in header if name not in _COLUMNS]:
        near = get_close_matches(unknown[0], _COLUMNS, n=1, cutoff=0.0)
        raise BadInput(f"{path}: unknown column {unknown[0]!r} (nearest: {near[0]}); columns are {', '.join(_COLUMNS)}")
    if len(set(header)) < len(header):
        raise BadInput(f"{path}: a column occurs twice; it has {', '.join(header)}")
    entries: dict[str, GenomeEntry] = {}
    for (number, _), cells in zip(numbered[1:], rows, strict=True):
        where = f"{path}, line {number}"
        if len(cells) > len(header):
            raise BadInput(f"{where}: {len(cells)} cells under {len(header)} columns")
        entry = _entry(dict(zip(header, map(str.strip, cells), strict=False)), where)
        if entry.name in entries:
            raise BadInput(f"{where}: genome {entry.name} again; genome names must be unique")
        entries[entry.name] = entry
    return list(entries.values())


def find_genome(name: str, entries: Iterable[GenomeEntry] = ()) -> GenomeEntry:
    """The entry with this name in `entries` or the catalog, or else a new entry if the name is an NCBI accession.

    Raises:
        BadInput: no such name; the message lists the nearest ones.
    """
    known = {entry.name: entry for entry in [*read_catalog(), *entries]}
    if name in known:
        return known[name]
    if _ACCESSION.fullmatch(name):
        return GenomeEntry(name=name, accession=name, assembly=name, licence=NCBI_LICENCE)
    if name.startswith(("GCA_", "GCF_")):
        raise BadInput(f"{name!r} is not an assembly accession with its version; write it like GCF_000005845.2")
    near = get_close_matches(name, known, n=3, cutoff=0.0)
    raise BadInput(
        f"no genome {name!r} in the catalog; nearest: {', '.join(near)}; `dnachunker genomes list` shows all, and an "
        "NCBI accession such as GCF_000005845.2 works too"
    )


def locate(entry: GenomeEntry) -> tuple[str, str]:
    """URLs of the entry's sequence and of its list of md5 sums ("" if there is none).

    An accession's folder is genomes/all/GCF/000/005/845/GCF_000005845.2_ASM584v2: three triples of digits, then the
    accession and the assembly name. Only the server knows the assembly name. Files in the folder start with its name.

    Raises:
        BadInput: NCBI has no such assembly, or not this version.
        Failure: the network failed too often.
    """
    if entry.url:
        return entry.url, entry.checksums
    match = _ACCESSION.fullmatch(entry.accession)
    if not match:
        raise BadInput(f"genome {entry.name}: {entry.accession!r} is not an accession such as GCF_000005845.2")
    parent = f"{NCBI}/{match[1]}/{match[2]}/{match[3]}/{match[4]}/"
    listing = (read_small(parent) or b"").decode("utf-8", "replace")
    folders = sorted(set(re.findall(r'href="(?:[^"]*/)?(GC[AF]_\d+\.\d+_[^"/]+)/"', listing)))
    own = [folder for folder in folders if folder.startswith(f"{entry.accession}_")]
    if not own:
        there = ", ".join(folder for folder in folders) or "nothing"
        raise BadInput(f"{entry.accession}: NCBI has no such assembly under {parent} (the folder has {there})")
    folder = urljoin(parent, f"{own[0]}/")
    return f"{folder}{own[0]}_genomic.fna.gz", f"{folder}md5checksums.txt"


def published_md5(listing: str, file_name: str) -> str | None:
    """The md5 of a file in a list of lines `MD5  NAME`, where NAME may start with `./`; None if it is not listed."""
    found = {match[2].strip().removeprefix("./"): match[1].lower() for match in _MD5_LINE.finditer(listing)}
    return found.get(file_name)


def _entry(values: dict[str, str], where: str) -> GenomeEntry:
    if bool(values.get("url")) == bool(values.get("accession")):
        raise BadInput(f"{where}: give either `url` or `accession`")
    if values.get("url") and not is_url(values["url"]):
        raise BadInput(f"{where}: {values['url'][:80]!r} is not a URL")
    if values.get("intervals") and not is_url(values["intervals"]):
        raise BadInput(f"{where}: intervals {values['intervals'][:80]!r} is not a URL")
    if values.get("accession"):
        if not _ACCESSION.fullmatch(values["accession"]):
            raise BadInput(f"{where}: {values['accession']!r} is not an accession with its version")
        values = {"name": values["accession"], "licence": NCBI_LICENCE} | {k: v for k, v in values.items() if v}
    if not values.get("name"):
        raise BadInput(f"{where}: a row with a url needs a `name`")
    try:
        for value in values.values():
            check_characters(value)
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from error
    return GenomeEntry(**values)

"""The verbs `genomes list` and `genomes fetch`: prints entries as text, and fetches several genomes in a row."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dnachunker.dataprep.corpus.describe import align
from dnachunker.foundations.failures import BadInput, Failure

from .cache import Fetched, fetch_genome, fetch_url
from .catalog import GenomeEntry, find_genome, read_catalog, read_list


def table(listed: str | None) -> str:
    """The entries of a list, or of the catalog, as a table with URL or accession, citations and licences."""
    entries = _entries(listed)
    rows = [("name", "species", "clade", "assembly", "from")]
    rows += [(e.name, e.species or "-", e.clade or "-", e.assembly or "-", e.url or e.accession) for e in entries]
    cited = [f"{e.name}: {e.citation or 'no citation given'}" for e in entries]
    licences = sorted({e.licence or "none given" for e in entries})
    return "\n".join([align(rows, text_columns=5), "", "cite", *cited, "", "licences", *licences])


def sources_yaml(listed: str | None) -> str:
    """The entries as YAML: the `sources` of a corpus config.

    Raises:
        BadInput: two names are equal once characters that a config key cannot hold are replaced.
    """
    from yaml import safe_dump

    sources = {}
    for entry in _entries(listed):
        key = re.sub(r"[^A-Za-z0-9_]", "_", entry.name)[:32]
        if key in sources:
            raise BadInput(f"{listed}: genome {entry.name} and another both become {key} in a config; rename one")
        by_name = entry.accession or ("" if listed else entry.name)
        facts = {"genome": by_name} if by_name else {"path": entry.url}
        for name in ("species", "clade", "assembly", "licence", "citation"):
            if value := getattr(entry, name):
                facts[name] = value
        sources[key] = facts
    return safe_dump({"sources": sources}, sort_keys=False, allow_unicode=True).rstrip()


def fetch_all(names: Sequence[str], listed: str | None, lock: str | None) -> Iterator[str]:
    """Fetch the named genomes, or all of a list, each with its intervals; yields lines for each of them.

    A failure does not stop the others.

    Raises:
        Failure: after the last genome, if any failed; says how many, and the first reason.
    """
    if not names and not listed:
        raise BadInput(
            "genomes fetch: give names of genomes, or a list with --from; `dnachunker genomes list` shows the catalog"
        )
    entries = read_list(Path(listed)) if listed else []
    wanted = [find_genome(name, entries) for name in names] if names else entries
    pins = Path(lock) if lock else None
    failed: list[Failure] = []
    for entry in wanted:
        try:
            yield _fetched_line(entry.name, fetch_genome(entry, lock=pins))
            if entry.intervals:
                yield _fetched_line(f"{entry.name} intervals", fetch_url(entry.intervals, lock=pins))
        except Failure as error:
            failed.append(error)
            yield f"{entry.name}: FAILED: {error}"
    if failed:
        raise type(failed[0])(f"{len(failed)} of {len(wanted)} genomes could not be fetched; the first: {failed[0]}")


def _fetched_line(name: str, found: Fetched) -> str:
    how = "fetched" if found.new else "in the cache"
    checked = "md5 as published" if found.md5 else "no published checksum; pinned"
    return f"{name}: {how}, {found.bytes:,} bytes, {checked}, sha256 {found.sha256}\n  {found.path}"


def _entries(listed: str | None) -> list[GenomeEntry]:
    return read_list(Path(listed)) if listed else read_catalog()

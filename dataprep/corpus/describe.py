"""Describes a corpus as text for the terminal: totals and provenance, and the letters of a region."""

import re
from collections.abc import Sequence

import numpy as np

from dnachunker.dataprep.genomes.region import parse_region
from dnachunker.dataprep.packed_codes import LETTERS
from dnachunker.foundations.failures import BadInput

from .held_out_doubts import asked_shares, held_out_doubts, obtained_shares
from .index import BlockTable, Corpus, SourceRecord

_LINE = 80  # bases a line
_MAX_SHOWN = 1_000_000  # bases of a region
_MAX_RUNS = 12  # runs of N, and of soft-mask, that are listed


def describe_corpus(corpus: Corpus) -> str:
    """Aligned tables of sources, splits, bases left out and leakage; then provenance and the fingerprint."""
    sources = [("source", "species", "assembly", "contigs", "bases", "in splits", "N %", "repeats %", "GC %")]
    for source in corpus.sources:
        used = source.bases_in_splits
        called = used - source.n_bases
        sources.append(
            (
                source.name,
                source.species,
                source.assembly or "-",
                f"{len(source.contigs):,}",
                f"{source.bases:,}",
                f"{used:,}",
                _percent(source.n_bases, used),
                _percent(source.soft_masked, used),
                _percent(source.gc, called),
            )
        )
    blocks = corpus.blocks()
    shares, every = [("source", "split", "asked %", "got %")], obtained_shares(blocks)
    for source in corpus.sources:
        asked, obtained = asked_shares(corpus.index, source.name), every.get(source.name, {})
        for split in corpus.index.splits:
            if split in asked or (split != "train" and obtained.get(split)):
                share = f"{100 * asked[split]:.2f}" if split in asked else "-"
                shares.append((source.name, split, share, f"{100 * obtained.get(split, 0.0):.2f}"))
    splits = [("split", "bases", "blocks", "shards", "MB", "bits/base")]
    for name, totals in corpus.index.splits.items():
        splits.append(
            (
                name,
                f"{totals.bases:,}",
                f"{totals.blocks:,}",
                f"{totals.shards:,}",
                f"{totals.bytes / 1e6:,.1f}",
                f"{8 * totals.bytes / totals.bases:.3f}",
            )
        )
    dropped = [("left out of", "split", "why", "pieces", "bases")]
    dropped += [(r.source, r.split, r.reason, f"{r.blocks:,}", f"{r.bases:,}") for r in corpus.index.dropped]
    parts = [align(sources, text_columns=3), align(splits, text_columns=1)]
    parts += [align(shares, text_columns=2)] if len(shares) > 1 else []
    parts += [align(dropped, text_columns=3)] if corpus.index.dropped else []
    if (leakage := corpus.index.leakage) and leakage.rows:
        found = [("held out", "source", f"{leakage.k}-mers", "in train", "%")]
        found += [
            (r.split, r.source, f"{r.kmers:,}", f"{r.in_train:,}", _percent(r.in_train, r.kmers)) for r in leakage.rows
        ]
        parts.append(align(found, text_columns=2))
    if doubts := held_out_doubts(corpus.index, blocks):
        parts.append("\n".join(f"warning: {line}" for line in doubts))
    parts += ["\n".join(map(_provenance, corpus.sources)), f"fingerprint {corpus.fingerprint}"]
    return "\n\n".join(parts)


def _provenance(source: SourceRecord) -> str:
    told = (source.provenance, source.citation, source.licence)
    lines = [f"{source.name}: {source.file}, sha256 {source.sha256}", *(f"  {text}" for text in told if text)]
    if source.weight is not None:
        lines.append(f"  sampling weight {source.weight:g}")
    return "\n".join(lines)


def show_region(corpus: Corpus, region: str) -> str:
    """The letters of `[SOURCE/]CONTIG[:START-END]` (1-based, both ends included).

    Lower case is soft-mask, `.` an unused base. The blocks of the region and its runs of N and of soft-mask are listed
    above the letters, as regions too.

    Raises:
        BadInput: `region` is malformed, names no contig or several, lies outside its contig, or is too long.
    """
    places: dict[str, list[tuple[str, str, int]]] = {}
    for one in corpus.sources:
        for name, bases in one.contigs.items():
            places.setdefault(name, []).append((one.name, name, bases))
            places.setdefault(f"{one.name}/{name}", []).append((one.name, name, bases))
    asked = parse_region(region, {name: max(place[2] for place in found) for name, found in places.items()})
    if asked is None:
        raise BadInput(
            f"{corpus.path}: {region!r} is on no contig of the corpus; write CONTIG:START-END, such as chr1:1001-1200 "
            "(`dnachunker corpus info` lists the sources)"
        )
    found = places[asked.contig]
    if len(found) > 1:
        raise BadInput(
            f"contig {asked.contig} is in several sources; write {' or '.join(f'{s}/{c}' for s, c, _ in found)}"
        )
    source, contig, _ = found[0]
    start, end = asked.start, asked.end
    if asked.length > _MAX_SHOWN:
        raise BadInput(f"region {region!r}: {asked.length:,} bases; ask for at most {_MAX_SHOWN:,}")
    table = corpus.blocks()
    rows = np.flatnonzero(
        (table.source == source) & (table.contig == contig) & (table.end > start) & (table.start < end)
    )
    letters = np.full(end - start, ord("."), np.uint8)
    notes = []
    for row in rows[np.argsort(table.start[rows])].tolist():
        letters[slice(*_overlap(table, row, start, end))] = _letters_of(corpus, table, row, start, end)
        notes.append(f"  {table.split[row]} {table.start[row] + 1:,}-{table.end[row]:,} in {table.shard[row]}")
    text = letters.tobytes().decode("ascii")
    width = len(f"{end:,}")
    lines = [f"{start + i + 1:>{width},}  {text[i : i + _LINE]}" for i in range(0, len(text), _LINE)]
    counts = (
        f"N {sum(map(text.count, 'Nn')):,}, soft-masked {sum(map(str.islower, text)):,}, unused {text.count('.'):,}"
    )
    runs = [
        _runs("N", text, "[Nn]+", start),
        _runs("soft-masked", text, "[acgtn]+", start),
    ]
    return "\n".join([f"{source} {contig}:{start + 1:,}-{end:,} ({counts})", *notes, *filter(None, runs), *lines])


def _runs(what: str, text: str, pattern: str, start: int) -> str:
    """A line with first and last base, counted from 1, of the runs that match `pattern`; "" if there are none."""
    places = [f"{start + run.start() + 1:,}-{start + run.end():,}" for run in re.finditer(pattern, text)]
    more = f" and {len(places) - _MAX_RUNS:,} more" if len(places) > _MAX_RUNS else ""
    return f"  {what} {' '.join(places[:_MAX_RUNS])}{more}" if places else ""


def _overlap(table: BlockTable, row: int, start: int, end: int) -> tuple[int, int]:
    return max(int(table.start[row]), start) - start, min(int(table.end[row]), end) - start


def _letters_of(corpus: Corpus, table: BlockTable, row: int, start: int, end: int) -> np.ndarray:
    packed = corpus.read_block(table, row).packed
    first = int(table.start[row])
    piece = packed[max(start - first, 0) : end - first]
    return np.frombuffer(piece.tobytes().translate(LETTERS), np.uint8)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def align(rows: Sequence[tuple[str, ...]], *, text_columns: int) -> str:
    """The rows as lines with aligned columns: the first `text_columns` to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

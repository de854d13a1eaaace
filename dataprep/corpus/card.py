"""card.html, the corpus card: describes a corpus on one self-contained page, for example as a supplement of a paper.

The card is made from the index and the block table alone and holds no date, host or path, so equal corpora have equal
cards.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from yaml import safe_dump

from .card_figures import Pieces, contig_bar, histogram, split_colours, stacked_bar
from .held_out_doubts import held_out_doubts
from .index import BlockTable, CorpusIndex, SourceRecord

CARD_NAME = "card.html"
_MAX_SOURCES = 24  # sources with drawings of their own; the tables list all sources
_MAX_CONTIGS = 25  # contigs drawn for a source
_REASONS = {
    "gap": "a long run of N, where blocks are cut apart",
    "too_much_n": "more N than the config allows in a block",
    "too_short": "shorter than the config's min_bases",
    "duplicate": "the same letters as another block, on either strand",
}


def render_card(index: CorpusIndex, blocks: BlockTable, fingerprint: str) -> bytes:
    """The card as UTF-8; `blocks` is the whole block table."""
    colours = split_colours(tuple(index.splits))
    drawn = sorted(index.sources, key=lambda source: -source.bases_in_splits)[:_MAX_SOURCES]
    page = _template().render(
        index=index,
        fingerprint=fingerprint,
        colours=colours,
        totals={name: sum(getattr(t, name) for t in index.splits.values()) for name in ("bases", "blocks", "bytes")},
        species=_species(index, blocks, colours),
        distributions=[_distributions(source, blocks) for source in drawn if source.bases_in_splits],
        maps=[_map(source, blocks, colours) for source in drawn],
        undrawn=len(index.sources) - len(drawn),
        reasons=_REASONS,
        doubts=held_out_doubts(index, blocks),
        config=safe_dump(index.config, sort_keys=False, allow_unicode=True, width=100),
    )
    return page.encode("utf-8")


@cache
def _template() -> Template:
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    pages.filters["percent"] = _percent
    pages.filters["size"] = _size
    return pages.get_template(f"{CARD_NAME}.j2")


def _species(index: CorpusIndex, blocks: BlockTable, colours: dict[str, str]) -> list[dict[str, Any]]:
    """The bases of each species by split, one row a species, the largest first."""
    names = dict.fromkeys(source.species for source in index.sources)
    rows: list[dict[str, Any]] = []
    for name in names:
        own = blocks.species == name
        parts = {split: int(blocks.bases[own & (blocks.split == split)].sum()) for split in colours}
        rows.append({"name": name, "parts": parts, "bases": sum(parts.values())})
    rows.sort(key=lambda row: -row["bases"])
    largest = max((row["bases"] for row in rows), default=0) or 1
    for row in rows:
        row["bar"] = Markup(stacked_bar(row["parts"], largest, colours, f"Bases of {row['name']} by split"))
    return rows


def _distributions(source: SourceRecord, blocks: BlockTable) -> dict[str, Any]:
    own = blocks.source == source.name
    bases, n_bases = blocks.bases[own], blocks.n_bases[own]
    called = np.maximum(bases - n_bases, 1)
    return {
        "name": source.name,
        "blocks": int(own.sum()),
        "gc": Markup(histogram(blocks.gc[own] / called, bases - n_bases, "#4b8b6f", f"GC of {source.name}")),
        "repeats": Markup(histogram(blocks.soft_masked[own] / bases, bases, "#a0628f", f"Repeats of {source.name}")),
    }


def _map(source: SourceRecord, blocks: BlockTable, colours: dict[str, str]) -> dict[str, Any]:
    """The longest contigs of a source, in file order, each with a bar coloured by split."""
    own = blocks.select(blocks.source == source.name)
    longest = sorted(source.contigs.values(), reverse=True)[:_MAX_CONTIGS]
    rows: list[dict[str, Any]] = []
    for contig, length in source.contigs.items():
        if length >= longest[-1] and len(rows) < len(longest):
            here = own.contig == contig
            order = np.argsort(own.start[here])
            pieces = Pieces(own.start[here][order], own.end[here][order], own.split[here][order])
            bar = contig_bar(pieces, length, longest[0], colours, f"Splits of {contig}")
            rows.append({"name": contig, "length": length, "bar": Markup(bar)})
    left = len(source.contigs) - len(rows)
    left_bases = source.bases - sum(row["length"] for row in rows)
    return {"name": source.name, "rows": rows, "left": left, "left_bases": left_bases}


def _percent(part: float, whole: float = 1.0) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "–"


def _size(bases: float) -> str:
    for unit, factor in (("Gbp", 1e9), ("Mbp", 1e6), ("kbp", 1e3)):
        if bases >= factor:
            return f"{bases / factor:,.2f} {unit}"
    return f"{bases:,.0f} bp"

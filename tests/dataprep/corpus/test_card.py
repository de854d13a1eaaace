"""card.html is complete and self-contained, and has the same bytes for the same corpus on every machine."""

import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.card import render_card
from dnachunker.dataprep.corpus.card_figures import Pieces, contig_bar
from dnachunker.dataprep.corpus.index import Corpus

LETTERS = "".join(random.Random(3).choices("ACGTacgt", k=9000))
HOSTILE = "<script>alert(1)</script>|ü/.."


def build(folder: Path, output: str = "corpus", **source: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    (folder / "g.fa").write_text(
        f">{HOSTILE}\n{LETTERS[:4000]}\n>b\n{LETTERS[4000:6000]}\n{'N' * 2000}\n{LETTERS[6000:]}R\n"
    )
    config = CorpusConfig(
        sources={"g": {"path": str(folder / "g.fa"), "species": "Homo <b>sapiens</b>", "citation": "Me 2026"} | source},
        split={"kind": "contigs", "splits": {"valid": [HOSTILE]}},
        block_bases=512,
    )
    return build_corpus(config, folder / output, workers=0, quiet=True).corpus


class Page(HTMLParser):
    """Checks that tags balance, and collects every attribute that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.loads += [name for name, _ in attributes if name in ("src", "href", "srcset", "data", "xlink:href")]
        self.loads += [tag] if tag in ("script", "link", "img", "iframe", "object") else []

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_card_describes_the_corpus_and_loads_nothing(tmp_path: Path) -> None:
    corpus = build(tmp_path, weight=3.5, licence="CC0")
    page = Page()
    source = (tmp_path / "corpus" / "card.html").read_text("utf-8")
    page.feed(source)
    assert page.open == []
    assert page.loads == []
    assert "url(" not in source
    record = corpus.sources[0]
    for fact in (record.sha256, corpus.fingerprint, "Me 2026", "CC0", "3.5", "Homo <b>sapiens</b>", HOSTILE, "R 1"):
        assert fact in page.text, fact
    assert "a long run of N" in page.text
    assert "block_bases: 512" in page.text
    assert str(tmp_path) not in source
    for totals in corpus.index.splits.values():
        assert f"{totals.bases:,}" in page.text


def test_the_card_is_the_same_for_the_same_corpus(tmp_path: Path) -> None:
    build(tmp_path / "one")
    build(tmp_path / "two", output="other")
    assert (tmp_path / "one/corpus/card.html").read_bytes() == (tmp_path / "two/other/card.html").read_bytes()


def test_a_card_of_many_genomes_and_contigs_stays_small(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    record = corpus.sources[0]
    contigs = {f"c{number}": 1 + number % 7 for number in range(10_000)}
    sources = [record.model_copy(update={"name": f"s{n}", "contigs": contigs}) for n in range(200)]
    page = render_card(
        corpus.index.model_copy(update={"sources": sources}), corpus.blocks(), corpus.fingerprint
    ).decode()
    assert len(page) < 1_000_000
    assert "176 smaller genomes are not drawn" in page
    assert "and 9,975 shorter contigs" in page
    assert all(f"s{n} <" in page for n in range(200))


def test_a_contig_bar_has_the_lengths_of_its_splits() -> None:
    pieces = Pieces(np.array([0, 500, 800]), np.array([400, 600, 1000]), np.array(["train", "valid", "train"]))
    bar = contig_bar(pieces, 1000, 2000, {"train": "#00f", "valid": "#f80"}, "a")

    def drawn() -> Iterator[tuple[float, float, str]]:
        for x, width, colour in re.findall(r'x="([\d.]+)" width="([\d.]+)" height="100%" fill="(#\w+)"', bar):
            yield float(x), float(width), colour

    assert list(drawn()) == [
        (0, 200, "#00f"),
        (200, 50, "#e3e7ec"),
        (250, 50, "#f80"),
        (300, 100, "#e3e7ec"),
        (400, 100, "#00f"),
    ]

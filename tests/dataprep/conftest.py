"""Fixtures of this folder: build a corpus from a small FASTA file, and turn a corpus back into letters."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnachunker.dataprep.build.build import build_corpus
from dnachunker.dataprep.config import CorpusConfig
from dnachunker.dataprep.corpus.index import Corpus
from dnachunker.dataprep.genomes.prepared_sequence import Stretch

KEEP_ALL: dict[str, Any] = {"n_gap": 0, "max_n": 1.0, "duplicates": "keep"}


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Corpus]:
    """Build a corpus in this process from FASTA bytes; keywords are keys of `CorpusConfig`."""

    def _build(data: bytes, name: str = "genome.fa", output: str = "corpus", **values: Any) -> Corpus:
        path = tmp_path / name
        path.write_bytes(data)
        config = CorpusConfig(
            sources={"g": {"path": str(path)}},
            # toy genomes hold duplicates and much N: keep everything
            **({"split": {"kind": "contigs", "splits": {}}, "block_bases": 16, **KEEP_ALL} | values),
        )
        return build_corpus(config, tmp_path / output, workers=0, quiet=True).corpus

    return _build


@pytest.fixture
def reassemble() -> Callable[..., dict[str, str]]:
    """All splits of a corpus joined: `contig -> letters`, `.` where no split has the base."""

    def _reassemble(corpus: Corpus, source: str) -> dict[str, str]:
        sizes = next(record.contigs for record in corpus.sources if record.name == source)
        letters = {contig: np.full(size, ord("."), np.uint8) for contig, size in sizes.items()}
        table = corpus.blocks()
        for row in np.flatnonzero(table.source == source).tolist():
            block = corpus.read_block(table, row)
            target = letters[block.contig][block.start : block.end]
            assert (target == ord(".")).all(), f"{block.key} repeats bases of another block"
            target[:] = np.frombuffer(block.letters, np.uint8)
        return {contig: array.tobytes().decode() for contig, array in letters.items()}

    return _reassemble


@pytest.fixture
def letters_of() -> Callable[[Stretch], str]:
    """The letters of a stretch, base by base."""

    def _letters_of(stretch: Stretch) -> str:
        letters = ["ACGT"[stretch.bases[i // 4] >> 6 - 2 * (i % 4) & 3] for i in range(stretch.length)]
        for start, end in stretch.n_runs.tolist():
            assert letters[start:end] == ["A"] * (end - start), "N is stored as A"
            letters[start:end] = "N" * (end - start)
        for start, end in stretch.soft_runs.tolist():
            letters[start:end] = "".join(letters[start:end]).lower()
        return "".join(letters)

    return _letters_of


@pytest.fixture
def read_fasta() -> Callable[[Path | bytes], dict[str, str]]:
    """An independent reader, line by line: `contig -> letters`, any letter but ACGT as N, case kept."""

    def _read(source: Path | bytes) -> dict[str, str]:
        data = source if isinstance(source, bytes) else source.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        records: dict[str, list[str]] = {}
        for line in data.decode().splitlines():
            if line.startswith(">"):
                lines = records.setdefault(line[1:].split()[0], [])
            else:
                lines.append("".join(c if c in "ACGTacgt" else "n" if c.islower() else "N" for c in line.strip()))
        return {name: "".join(lines) for name, lines in records.items() if any(lines)}

    return _read

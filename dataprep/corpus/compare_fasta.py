"""Compares a corpus with its genome files letter by letter.

A plain FASTA is read with pyfaidx first, which shares no code with us. pyfaidx takes blanks within lines for bases, and
cannot index every file. So a file that it cannot read, or in which it finds a difference, is read as `shard` reads it,
and only the differences of that reading are reported.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyfaidx

from dnachunker.dataprep.genomes.genome import Genome
from dnachunker.dataprep.genomes.input_file import open_input
from dnachunker.foundations.failures import BadInput

from .index import Corpus, SourceRecord

# letters as a corpus stores them: A, C, G and T stay, any other letter becomes N, and the case is kept
_KEPT = bytes(c if chr(c) in "ACGTacgt" else ord("n") if chr(c).islower() else ord("N") for c in range(256))


class _Indexed:
    """`Genome` by pyfaidx, with its index in a temporary folder.

    Raises:
        Exception: of many types, where pyfaidx cannot index the file.
    """

    def __init__(self, path: Path, folder: str) -> None:
        self._fasta = pyfaidx.Fasta(str(path), indexname=f"{folder}/index.fai", as_raw=True)
        self.lengths = {name: len(record) for name, record in self._fasta.items()}

    def fetch(self, contig: str, start: int, end: int) -> str:
        letters = self._fasta[contig][start:end] if end > start else ""
        return letters.encode("ascii", "replace").translate(_KEPT).decode("ascii")

    def close(self) -> None:
        self._fasta.close()


def compare_with_fasta(corpus: Corpus, files: Sequence[str]) -> list[str]:
    """One line per block that differs from its genome, in canonical order, with the first wrong base, counted from 1.

    Args:
        files: `SOURCE=PATH` of each genome to compare; the path alone is enough if the corpus has one source.

    Raises:
        BadInput: no such source, no genome file, or a block that cannot be read.
    """
    return [line for item in files for line in _differences(corpus, *_source_and_path(corpus, item))]


def _source_and_path(corpus: Corpus, item: str) -> tuple[SourceRecord, Path]:
    records = {record.name: record for record in corpus.sources}
    name, separator, path = item.partition("=")
    if not separator and len(records) == 1:
        return corpus.sources[0], Path(item)
    if name not in records:
        raise BadInput(f"--fasta {item}: write SOURCE=FILE; the sources of {corpus.path} are {', '.join(records)}")
    return records[name], Path(path)


def _differences(corpus: Corpus, source: SourceRecord, path: Path) -> Iterator[str]:
    if not _equal_by_pyfaidx(corpus, source, path):
        with Genome(path) as genome:
            yield from _compare(corpus, source, path, genome)


def _equal_by_pyfaidx(corpus: Corpus, source: SourceRecord, path: Path) -> bool:
    """Whether pyfaidx can read the file, and all blocks are as it reads them."""
    try:
        with open_input(path) as file:
            if file.read(1) != b">":
                return False
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(_Indexed(path, folder)) as genome:
            return not any(_compare(corpus, source, path, genome))
    except Exception:  # of many types; the second reading says in one line what is wrong
        return False


def _compare(corpus: Corpus, source: SourceRecord, path: Path, genome: _Indexed | Genome) -> Iterator[str]:
    table = corpus.blocks()
    for row in np.flatnonzero(table.source == source.name).tolist():
        block = corpus.read_block(table, row)
        end = min(block.end, genome.lengths.get(block.contig, 0))
        found = np.frombuffer(genome.fetch(block.contig, block.start, end).encode(), np.uint8)
        stored = np.frombuffer(block.letters, np.uint8)
        if source.repeats_file_sha256:  # the soft-mask comes from another file: compare without case
            found, stored = found & ~np.uint8(32), stored & ~np.uint8(32)
        if found.size != stored.size:
            yield (
                f"{path}: {source.name}/{block.contig} has {found.size} bases from {block.start + 1} on where the "
                f"corpus has {stored.size}"
            )
        elif (wrong := np.flatnonzero(found != stored)).size:
            first = int(wrong[0])
            yield (
                f"{path}: {source.name}/{block.contig}:{block.start + first + 1} is {chr(found[first])} but "
                f"{chr(stored[first])} in the corpus; {wrong.size} of the {stored.size} bases of block {block.key} "
                "differ"
            )
